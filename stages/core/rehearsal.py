"""Rehearsal: predictions that a model must keep while it learns. An option of every strategy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.runtime.strict import Strict, omit_default

# They name no concept. The model in training must predict for them what the model before the task predicts.
CAPTIONS = tuple(
    f"{kind} of {thing}"
    for thing in (
        "a mountain lake",
        "a busy street",
        "an old man",
        "a bowl of fruit",
        "a sleeping cat",
        "a sailing boat",
        "a child at a table",
        "a field of flowers",
        "a red car",
        "a wooden house",
        "a bird on a branch",
        "a city at night",
    )
    for kind in ("a photo", "a painting")
)


class Rehearsal(Strict):
    """Extra rows of each training step in which the target is the prediction of the model before the task.

    The loss grows by weight * MSE(v(x_t, c'), v_before(x_t, c')), the mean over the rows, with v the model's own
    prediction (velocity or noise). Trainers have it for one class word, as prior preservation without pictures; the
    nearest in research is function distillation (arXiv 2410.00700).
    """

    # c': the training prompts of the concepts before, captions of anything, or the plain words of this concept's class
    prompts: Literal["earlier", "generic", "class"]
    pictures: Literal["task", "state"] = "task"  # x: this task's, or those that the model before it makes of c'
    # With the earlier ones also the plain words of all classes so far, this concept's among them: prior preservation
    # without pictures, so that the class stays what it was and it is the concept's own word that brings the concept.
    classes: bool = omit_default(False)
    # What may follow a prompt: "a photo of an owl" is rehearsed as "a photo of an owl on the beach", too. Without them
    # some longer prompts of the class bring the concept. They make many prompts of one, so rows are shared out: with
    # `classes`, half of them are for earlier concepts, a quarter each for this class and for the others.
    scenes: tuple[str, ...] = Field((), strict=False, exclude_if=lambda value: not value)
    weight: float = Field(3.0, gt=0)
    rows: int = Field(2, ge=1)  # in each step
    images: int = Field(6, ge=1)  # per prompt, where the model before the task makes them: once per task
    # The generic ones; without any, those of the base: `Family.captions`.
    captions: tuple[str, ...] = Field((), strict=False, exclude_if=lambda value: not value)

    @model_validator(mode="after")
    def _goes_together(self) -> Rehearsal:
        if self.classes and self.prompts != "earlier":
            raise ValueError("classes goes with prompts: earlier")
        if self.scenes and self.prompts == "generic":
            raise ValueError("scenes goes with prompts: earlier and class")
        return self

    @property
    def needs_classes(self) -> bool:
        """Whether concepts must have words for their class."""
        return self.classes or self.prompts == "class"

    def rows_at(self, task: int) -> int:
        """Rows in each step of a task, counted from 0: before the first no concept has been learned."""
        return self.rows if task or self.needs_classes or self.prompts == "generic" else 0
