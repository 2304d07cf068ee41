"""The embedded worlds. Importing `stages` first fixes the instruction set, also while weights are trained."""

import stages  # noqa: F401
