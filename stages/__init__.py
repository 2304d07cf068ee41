"""The stages of a study. The instruction set is fixed here, before any module can import numpy or torch."""

from stages.runtime.instruction_set import pin

pin()
