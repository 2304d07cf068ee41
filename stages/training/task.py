"""What one task does between reading and writing: the parts of the stages that are worth calling from elsewhere."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.adapters.state import State
from stages.adapters.storage import delta_fingerprint, fingerprint, flat
from stages.core.dataset import class_prompt
from stages.core.family import Learner
from stages.core.params import Params, Prior
from stages.core.runs import Run
from stages.files import artifact
from stages.files.pictures import open_png
from stages.runtime.seeds import generator, seed
from stages.sampling.sampler import sample
from stages.training.distributed import team
from stages.training.examples import Lesson, encoded, taught
from stages.training.loop import Losses, Observer, Training

log = logging.getLogger("palimpsest")
CHECKPOINTS = Path(".checkpoints")


def train(
    params: Params,
    run: Run,
    index: str,
    state: State,
    data: Mapping[str, Any],
    pictures: Sequence[Image.Image],
    observe: Callable[[Learner, Delta], Observer] | None = None,
) -> tuple[Adapter, Losses]:
    """Trains one task's adapter from the state before it; `observe` makes who is told of each step."""
    family, options, strategy = params.family, params.train, params.rule(run.strategy)
    words = (run.seed, run.sequence.order, index)
    drawn = (run.seed, "fresh") if options.reinit == "shared" else (*words, "fresh")
    fresh = fresh_adapter(family.shapes(), options.rank, options.alpha, generator(*drawn))
    start, frozen = strategy.start(state, fresh), strategy.frozen(state)
    with team().leader_first():
        lessons = taught(params, data, pictures)
        if options.prior:
            lessons += of_the_class(params, options.prior, data["concept"])
        material = encoded(family, lessons, len(pictures))
    inputs = [
        family.fingerprint,
        options.model_dump(mode="json"),
        words,
        [[lesson.caption, lesson.frame] for lesson in lessons],
        [hashlib.sha256(lesson.image.tobytes()).hexdigest() for lesson in lessons],
        [start.scale, fingerprint(flat(start)), delta_fingerprint(frozen) if frozen and frozen.modules else None],
    ]
    learner = family.learner(frozen, start, options)
    training = Training(learner, options, words, CHECKPOINTS / artifact.digest(inputs)[:32])
    # Before the first merge all strategies stand at the same place: what one has trained there, the others reuse.
    first = not state.delta.modules
    adapter, losses = training.run(material, first, observe and observe(learner, frozen or Delta()))
    if not first:
        training.forget()
    return adapter, losses


def of_the_class(params: Params, options: Prior, concept: Mapping[str, Any]) -> list[Lesson]:
    """Pictures of the concept's class as the base makes them, made once and kept with what else has been sampled."""
    prompt = class_prompt(options.prompt, concept)
    drawn = {"images": options.images, "seed": seed(params.sample.seed, "class")}
    of_class = params.model_copy(update={"sample": params.sampling(None).model_copy(update=drawn)})
    (files,) = sample(of_class, State(), [[prompt]])
    return [Lesson(open_png(file), prompt, None) for file in files]
