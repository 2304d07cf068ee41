"""What Prefect's page shows of a report: its words, without files that the page does not have."""

from flows.engine.prefect_view import without_files

REPORT = """# small

After 2 objects, nothing was learned.

- a conclusion

![grids/objects.png](grids/objects.png)
![figures/curve.png](figures/curve.png)

| strategy | score |
| --- | ---: |

## Pictures

- [objects.png](grids/objects.png)

## Glossary

- **score**: a number
"""


def test_an_artifact_has_no_picture_and_no_link_to_a_file():
    text = without_files(REPORT)
    assert "](" not in text
    assert "## Pictures" not in text
    assert text.startswith("# small\n\nAfter 2 objects, nothing was learned.\n\n- a conclusion\n\n| strategy |")
    assert text.endswith("## Glossary\n\n- **score**: a number\n")
    assert without_files("# small\n\nAfter.\n") == "# small\n\nAfter.\n"
