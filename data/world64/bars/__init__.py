"""What the weights must be able to do: tests that go to tests/data when the committed weights pass all of them.

`pytest data/world64/bars/judges.py data/world64/bars/base.py`
"""
