"""The stages of a study. Imports are prepared here, and the instruction set fixed before any of numpy or torch."""

from stages.runtime.environment import heal_bytecode
from stages.runtime.instruction_set import pin

heal_bytecode()
pin()
