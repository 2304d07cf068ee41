"""The embedded world. Importing `stages` first fixes the instruction set, also for the training of its weights."""

import stages  # noqa: F401
