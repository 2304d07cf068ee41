"""Importing `stages` first fixes the instruction set before a test can import numpy or torch."""

import stages  # noqa: F401
