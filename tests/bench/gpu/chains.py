"""The part of the full-size benchmark about several trainings in one batch."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from stages.core.params import Train
from stages.runtime.seeds import generator
from stages.tools.together.train import Group
from stages.training.examples import Material
from stages.training.loop import Training
from stages.training.task import Prepared
from tests.bench.blocks import short
from tests.bench.gpu.bench import PROMPT, Bench, free_memory, synced
from tests.bench.gpu.kernels import table
from tests.bench.gpu.training import STEP

COUNTS = (1, 4)  # each is compiled by itself
LIMITS = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}  # of the difference of gradients, relative to their size
STEPS = 20


class Everything(set[Any]):
    """Contains whatever is asked for: the batch is timed also where its bits are not those of one after another."""

    def __contains__(self, _: object) -> bool:
        return True


@dataclass
class Chains:
    """Measures the seconds per step and training of several trainings in one batch."""

    bench: Bench

    def run(self, end: float) -> None:
        bench = self.bench
        bench.notes.print(f"trainings in one batch, one picture of {bench.family.pixels} pixels each")
        with tempfile.TemporaryDirectory() as folder:
            counts, steps, profiled = (COUNTS, STEPS, 3) if bench.full else ((1, 2), 1, 1)
            made = [self.prepared(number, Path(folder)) for number in range(max(counts))]
            self.check(made)
            groups = {count: Group(bench.family, made[:count]) for count in counts}
            peers = {str(count): lambda group=group: timed(group, steps) for count, group in groups.items()}
            times = bench.blocks(peers, end)
            for count, seconds in times.items():
                bench.record(
                    f"chains: {count}{bench.uncompiled}", seconds, "chains" if count == str(max(COUNTS)) else ""
                )
            medians = {count: statistics.median(seconds) for count, seconds in times.items()}
            for count, each in medians.items():
                ratio = medians["1"] / each
                bench.notes.print(f"  {count} in a batch: {short(each)} a step and training, {ratio:.2f}x of one")
            most = max(counts)
            what = f"a step of one of {most} trainings in a batch"
            count = (1 + profiled) * most  # with the step that is not timed
            table(bench.notes, what, lambda: timed(groups[most], profiled), count, bench.at_peak(STEP))
            for one in made:
                one.training.checkpoints.close()
        free_memory()

    def prepared(self, number: int, folder: Path) -> Prepared:
        bench, rank = self.bench, self.bench.rank
        options = Train(rank=rank, alpha=rank, steps=10**6, batch=1, learning_rate=1e-4, reinit="shared",
                        checkpoint_every=10**6)  # fmt: skip
        frozen = bench.adapter(("frozen", number)).delta if number else None
        learner = bench.family.learner(frozen, bench.adapter(number), options)
        training = Training(learner, options, (number,), folder / str(number))
        noise = torch.randint(0, 256, (bench.family.pixels,) * 2, generator=generator(number), dtype=torch.uint8)
        image = bench.family.encode_images([Image.fromarray(noise.numpy()).convert("RGB")])
        material = Material([image], bench.family.encode_prompts([PROMPT]), [0], 1)
        bench.family.only_on_device(*bench.family.adapted_parts)
        training.begin(material)
        return Prepared(training, material, True)

    def check(self, made: list[Prepared]) -> None:
        """Compares the gradients of trainings in a batch with those of each alone."""
        group, limit = Group(self.bench.family, made), LIMITS[self.bench.dtype]
        inputs = [next(one.training.parts(one.material)) for one in made]
        alone = [group.alone(number, one) for number, one in enumerate(inputs)]
        group.add_gradients(Everything())
        worst = 0.0
        for descent, wanted in zip(group.descents, alone, strict=True):
            for mine, theirs in zip(descent.sums, wanted, strict=True):
                worst = max(worst, float((mine - theirs).norm() / theirs.norm()))
            descent.drop()
        self.bench.notes.print(f"  gradients differ from those alone by {worst:.1e} (limit {limit:g})")
        if not worst <= limit:
            self.bench.notes.fail("trainings in a batch differ from those alone")


def timed(group: Group, steps: int) -> float:
    """Seconds per step and training, after one step that is not timed."""

    def run(count: int) -> None:
        for _ in range(count):
            group.add_gradients(Everything())
            for training in group.trainings:
                training.finish_step(keep=False)

    run(1)
    return synced(lambda: run(steps)) / steps / len(group.trainings)
