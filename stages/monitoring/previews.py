"""What is looked at while training goes on: sample pictures now and then, and losses as they come.

None of it is part of a result, changes one, or can stop a training: what goes wrong here is said once and left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.adapters.algebra import Delta
from stages.core.dataset import fill
from stages.core.family import Learner
from stages.core.params import Params
from stages.core.runs import Run
from stages.sampling.encodings import encode_prompts
from stages.sampling.noise import noises
from stages.training.loop import Losses, Observer

log = logging.getLogger("palimpsest")
PREVIEWS = Path("previews")  # kept out of git and of DVC


class Previews:
    """Pictures of the concept's prompts or of those asked for, always from the same noises, every so many steps from
    step 0 on."""

    def __init__(
        self, params: Params, run: Run, index: str, learner: Learner, frozen: Delta, concept: Mapping[str, Any]
    ) -> None:
        self.params, self.family, self.learner, self.frozen = params, params.family, learner, frozen
        words = " ".join(filter(None, (concept["token"], concept["noun"])))
        own = [fill(prompt, words) for prompt in params.watch.prompts]
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
        with self.learner.aside():
            family.shift(self.frozen + self.learner.adapter().delta)
            pictures = family.sample(rows, noise, options.steps, options.guidance, options.scheduler)
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            picture.save(self.folder / f"{step:06d}-{number:02d}.png")


def unharmed(observers: Sequence[Observer]) -> Observer:
    """All of them as one that never raises: who fails is named and not asked again."""
    left = list(observers)

    def observe(step: int, losses: Losses) -> None:
        for observer in list(left):
            try:
                observer(step, losses)
            except Exception as error:
                log.warning("%s: %s. Training goes on without.", type(observer).__name__, error)
                left.remove(observer)

    return observe
