"""The targets of rehearsed rows: what the model without its adapter predicts, many rows at a time.

That model does not change while a task is learned, and which rows a step has is a function of the step. So the rows of
a block of steps are answered together, at the first of its steps that is run: one pass over many rows takes a fraction
of the time of many passes over few. Blocks do not depend on where a training resumes, and so neither do its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from stages.core.family import Encodings, Learner, Row
from stages.training.examples import micro_batches
from stages.training.step import Descent

BLOCK = 16  # steps
AT_ONCE = 1 << 18  # numbers in the encoded pictures of one pass: two pictures of SDXL, all of a small base


class Answers:
    """The answers of one training.

    Args:
        rows_of: the rows of a step that this process computes.
        images: the encoded pictures.
    """

    def __init__(
        self, learner: Learner, descent: Descent, rows_of: Callable[[int], Sequence[Row]], images: Sequence[Encodings]
    ) -> None:
        self.learner, self.descent, self.rows_of, self.images = learner, descent, rows_of, images
        self._block, self._known = -1, dict[Row, Tensor]()

    def at(self, step: int, most: int | None) -> Mapping[Row, Tensor]:
        """The answers of the rehearsed rows of a step, and of the other steps of its block.

        Args:
            most: rows at a time, if there was not enough memory for more.
        """
        if not self.has(step):
            first = step // BLOCK * BLOCK
            rows = [row for at in range(first, first + BLOCK) for row in self.rows_of(at) if row.rehearsed]
            self._known = {}
            for part in micro_batches(rows, self.images, self._at_once(rows, most)) if rows else ():
                answers = self.descent.answer(self.learner.inputs(part))
                self._known |= zip(part, answers.unbind(), strict=True)
            self._block = step // BLOCK
        return self._known

    def has(self, step: int) -> bool:
        """Whether the answers of this step are known."""
        return step // BLOCK == self._block

    def forget(self) -> None:
        """Discards the answers of the block, so that it is answered again, for instance fewer rows at a time."""
        self._block, self._known = -1, {}

    def _at_once(self, rows: Sequence[Row], most: int | None) -> int:
        size = max(value.numel() for row in rows for value in self.images[row.image].values())
        return min(max(1, AT_ONCE // size), most or len(rows))
