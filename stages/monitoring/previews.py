"""Sample pictures while training runs.

They are not part of a result, do not change one and cannot stop training: an observer that fails is reported once and
then skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.adapters.algebra import Delta
from stages.core.dataset import fill, words_for
from stages.core.family import Learner
from stages.core.params import Params
from stages.core.runs import Run
from stages.sampling.encodings import encode_prompts
from stages.sampling.noise import noises
from stages.training.loop import Losses, Observer

log = logging.getLogger("palimpsest")
PREVIEWS = Path("previews")  # ignored by git and DVC


class Previews:
    """Samples the concept's prompts, or those of `watch.prompts`, every `watch.previews_every` steps from step 0 on,
    always from the same noise.

    Args:
        params: of the study.
        run: the run that the task belongs to.
        index: of the task: 01, 02, ...
        learner: the model in training.
        frozen: the delta that is fixed while training.
        concept: of the task, from the manifest of its data.
    """

    def __init__(
        self, params: Params, run: Run, index: str, learner: Learner, frozen: Delta, concept: Mapping[str, Any]
    ) -> None:
        self.params, self.family, self.learner, self.frozen = params, params.family, learner, frozen
        own = [fill(prompt, words_for(concept)) for prompt in params.watch.prompts]
        self.prompts = own or list(concept["prompts"])[: params.watch.previews]
        self.options = params.sampling(run.strategy)
        self.folder = PREVIEWS / params.study / str(run) / index

    def __call__(self, step: int, losses: Losses) -> None:
        every = self.params.watch.previews_every
        if not every or step % every:
            return
        family, options = self.family, self.options
        noise = noises(options, len(self.prompts), family.noise_shape())
        rows = encode_prompts(family, self.prompts)
        with self.learner.paused():
            family.shift(self.frozen + self.learner.adapter().delta)
            how = (options.steps, options.guidance, options.scheduler)
            pictures = family.sample(rows, noise, *how, **options.further)
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            picture.save(self.folder / f"{step:06d}-{number:02d}.png")


def safe_observer(observers: Sequence[Observer]) -> Observer:
    """Combines observers into one that never raises: one that fails is reported and not called again."""
    active = list(observers)

    def observe(step: int, losses: Losses) -> None:
        for observer in list(active):
            try:
                observer(step, losses)
            except Exception as error:
                log.warning("%s: %s. Training continues without it.", type(observer).__name__, error)
                active.remove(observer)

    return observe
