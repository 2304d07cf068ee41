"""Trains the adapters of several tasks in one batch, up to a checkpoint of the last step; their stages publish them.

It saves time and changes nothing: `python -m stages.train` trains each alone to the same bytes. `palimpsest run` calls
it for stages that are ready at the same time.

Only the gradients are computed together. Rows, clipping, AdamW, losses and checkpoints are those of each training by
itself, and so are its failures. That a training's numbers do not depend on the others is a property of the kernels, so
it is checked: the first pass of each number of trainings and shape is compared with the trainings one by one. Where a
training repeats to the last bit, so must this; where it does not, on a GPU without PALIMPSEST_EXACT, gradients may
differ by the rounding of the number format. Otherwise nothing is trained together.
"""

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from stages.core.command import main
from stages.core.family import Encodings, Family, JoinedLearners
from stages.core.params import Params
from stages.core.runs import Run, find_run
from stages.monitoring.live_losses import LiveLosses
from stages.monitoring.previews import safe_observer
from stages.runtime.device import device, free_memory, reproducible
from stages.runtime.faults import ConfigFault, Fault, InputFault, MachineFault, Preempted
from stages.runtime.process import StopRequest
from stages.runtime.progress import track
from stages.training.cuda_graph import Recorder, Replay, recordable, shapes_of
from stages.training.loop import Observer
from stages.training.step import Descent, add_gradients
from stages.training.task import Prepared, prepare, read_inputs

log = logging.getLogger("palimpsest")
Shapes = tuple[object, ...]
# By the model's number format: how far a gradient may be from that of the training alone, relative to its size, where
# bits are not repeated. Two ways to compute a step of SDXL differ by a tenth of it (tests/bench/gpu).
ROUNDING = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}


class NotTogether(Exception):
    """These trainings cannot share a pass, with the reason."""


def train_together(
    family: Family, prepared: Sequence[Prepared], notify: Callable[[Prepared], None] = lambda one: None
) -> None:
    """Trains each adapter to its last step and leaves a checkpoint there; skips those that another process trains.

    Args:
        family: of all of them.
        prepared: the trainings.
        notify: called with each of them after its step.

    Raises:
        NotTogether: they cannot share a pass; what has been trained so far is saved.
        Preempted: SIGTERM was received; checkpoints were saved.
    """
    with ExitStack() as held, StopRequest() as stop:
        active = list(_opened(prepared, held))
        if len(active) < 2:
            raise NotTogether("fewer than two remain to be trained")
        total = active[0].training.options.steps
        group, checked = Group(family, active), set[Shapes]()
        for _ in track(_until_done(active), total, "train", min(one.training.step for one in active)):
            try:
                group.add_gradients(checked)
            except (NotTogether, torch.OutOfMemoryError) as error:
                _save(active)
                free_memory()
                reason = "out of memory" if isinstance(error, torch.OutOfMemoryError) else str(error)
                raise NotTogether(reason) from None
            remaining = [one for one in active if _finished_step(one)]
            for one in active:
                notify(one)
            if stop.received:
                _save(remaining)
                raise Preempted("stopped and saved. Run it again to continue.")
            if len(remaining) < len(active):
                active[:] = remaining
                group = Group(family, active) if len(active) > 1 else group


def _opened(prepared: Sequence[Prepared], held: ExitStack) -> Iterator[Prepared]:
    """Those with steps left, each at its newest checkpoint and with its data; one for each folder of checkpoints."""
    for one in {one.training.folder: one for one in prepared}.values():
        try:
            held.enter_context(one.training.opened())
        except MachineFault:
            continue  # it is trained elsewhere
        be_at(one)
        one.training.begin(one.material)
        if one.training.step < one.training.options.steps:
            yield one


def _until_done(active: list[Prepared]) -> Iterator[int]:
    while len(active) > 1:
        yield min(one.training.step for one in active)
    _save(active)  # its own command ends the one that remains


def _finished_step(one: Prepared) -> bool:
    """Ends the step of a training; returns whether more are to come together with others."""
    try:
        one.training.finish_step(keep=True)
    except InputFault as fault:
        log.warning("%s", fault)
        return False
    return one.training.step < one.training.options.steps


def _save(active: Sequence[Prepared]) -> None:
    for one in active:
        one.training.descent.drop()
        try:
            if one.training.step:
                one.training.save()
        except Fault as fault:
            log.warning("%s", fault)


def be_at(one: Prepared) -> None:
    """Sets the family to this training's model."""
    with one.training.learner.paused():
        pass


class Group:
    """Trainings that share passes.

    Args:
        family: of all of them.
        members: the trainings.

    Raises:
        NotTogether: their family cannot, or they differ in options that it needs to be equal.
    """

    def __init__(self, family: Family, members: Sequence[Prepared]) -> None:
        self.members, self.rounding = list(members), 0.0 if reproducible() else ROUNDING[family.number_format]
        self.trainings = [one.training for one in members]
        self.descents = [training.descent for training in self.trainings]
        try:
            self.joined = family.joined([training.learner for training in self.trainings])
        except ValueError as error:
            raise NotTogether(str(error)) from None
        recorder = None
        if recordable(device(), self.trainings[0].options):
            recorder = Recorder(partial(_without_effect, self.descents))
        # Functions that do not refer to this object: in a cycle its CUDA graph would outlive it.
        self._pass = Replay(partial(_add, self.descents, self.joined), recorder)

    def add_gradients(self, checked: set[Shapes]) -> None:
        """Adds the gradients of the next step of each training; the first of new shapes are compared.

        Args:
            checked: the shapes whose passes are known to equal those one by one; new ones are added.

        Raises:
            NotTogether: the steps differ in shape, or computing them together changes numbers; nothing was added.
        """
        parts = [self._parts(one) for one in self.members]
        inputs = [one[0] for one in parts]
        if any(len(one) > 1 for one in parts) or len({shapes_of(one) for one in inputs}) > 1:
            raise NotTogether("their steps have different shapes")
        key: Shapes = (len(inputs), shapes_of(inputs[0]))
        if key in checked:
            self._pass({f"{n}.{name}": value for n, one in enumerate(inputs) for name, value in one.items()})
            return
        alone = [self.alone(number, one) for number, one in enumerate(inputs)]
        add_gradients(self.descents, self.joined.losses(inputs))
        for descent, wanted in zip(self.descents, alone, strict=True):
            if not all(self._agree(a, b) for a, b in zip(descent.sums, wanted, strict=True)):
                for other in self.descents:
                    other.drop()
                raise NotTogether("on this device sums depend on how many pictures are computed at a time")
        checked.add(key)

    def _agree(self, together: Tensor, alone: Tensor) -> bool:
        if self.rounding:
            return bool((together - alone).norm() <= self.rounding * alone.norm())
        return torch.equal(together, alone)

    def _parts(self, one: Prepared) -> list[Encodings]:
        if one.training.needs_model:
            be_at(one)
        return list(one.training.parts(one.material))

    def alone(self, number: int, inputs: Encodings) -> list[Tensor]:
        """The gradients and the loss that a training adds by itself."""
        descent = self.descents[number]
        be_at(self.members[number])
        descent.add_gradient(inputs)
        sums = [value.clone() for value in descent.sums]
        descent.drop()
        return sums


def _add(descents: Sequence[Descent], joined: JoinedLearners, inputs: Encodings) -> None:
    """Adds the losses and gradients of all trainings.

    Args:
        inputs: of all of them: those of the second one as 1.NAME.
    """
    parts: list[dict[str, Tensor]] = [{} for _ in descents]
    for key, value in inputs.items():
        number, _, name = key.partition(".")
        parts[int(number)][name] = value
    add_gradients(descents, joined.losses(parts))


def _without_effect(descents: Sequence[Descent], function: Callable[[], None]) -> None:
    for descent in descents:
        function = partial(descent.without_effect, function)
    function()


def together(params: Params, _: None, args: argparse.Namespace) -> None:
    """Trains the listed tasks together, as far as that is possible."""
    prepared, live = list[Prepared](), dict[Path, Observer]()
    for run, index in _tasks(params, args.tasks):
        if one := _prepared(params, run, index):
            prepared.append(one)
            steps, folder = one.training.options.steps, one.training.folder
            live[folder] = safe_observer([LiveLosses(params.study, run, index, steps)])

    def show(one: Prepared) -> None:
        live[one.training.folder](one.training.step, one.training.losses)

    try:
        train_together(params.family, prepared, show)
    except NotTogether as reason:
        log.info("trained one after another: %s", reason)


def _tasks(params: Params, words: list[str]) -> list[tuple[Run, str]]:
    """Runs and positions, from words such as objects/0/naive/0/03.

    Raises:
        ConfigFault: there is no such run or position.
    """
    positions = params.positions
    tasks = []
    for word in words:
        run, _, index = word.rpartition("/")
        if index not in positions:
            raise ConfigFault(
                f"{word}: no position '{index}'. Give one of {positions[0]} to {positions[-1]} after RUN/."
            )
        tasks.append((find_run(params, run), index))
    return tasks


def _prepared(params: Params, run: Run, index: str) -> Prepared | None:
    """A training that is ready to begin; None if it fails, which its own stage will report."""
    try:
        return prepare(params, run, index, read_inputs(params, run, index))[0]
    except Preempted:
        raise
    except Fault as fault:
        log.warning("%s/%s: %s", run, index, fault)
        return None


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tasks", nargs="+", metavar="RUN/NN", help="DOMAIN/ORDER/STRATEGY/SEED/NN")


if __name__ == "__main__":
    main(__doc__, together, None, more=_options)
