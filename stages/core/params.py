"""params.yaml as frozen models. It holds everything that changes a result."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from stages.core.dataset import Concept, Dataset, class_prompt, datasets, facts_of
from stages.core.family import Family, SamplingOptions, check_options, families
from stages.core.metric import Metric, metric_of
from stages.core.strategy import Strategy, chosen
from stages.core.training import Prior as Prior
from stages.core.training import Train as Train
from stages.files.yaml import PARAMS, read_yaml
from stages.runtime.faults import ConfigFault, for_all, nearest
from stages.runtime.strict import Strict, explain, first_error, omit_default

# Safe as a part of paths and of DVC stage names.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=64)]
Position = Annotated[str, StringConstraints(pattern=r"^\d\d$")]
Options = dict[str, Any]


class Task(Strict):
    """A position in the sequence. `sees`: sample the prompts of the tasks so far (data/NN) or of all tasks (data)."""

    index: Position
    previous: Position
    sees: str

    @model_validator(mode="after")
    def _sees_itself_or_all(self) -> Task:
        if self.sees not in ("data", f"data/{self.index}"):
            raise ValueError(f"must be data/{self.index} or data")
        return self


class PlugIn(Strict):
    """The name of a plug-in, and its options."""

    name: str
    options: Options = Field(default_factory=dict)


class Prepare(Strict):  # how photos become training and reference pictures
    resolution: int = Field(ge=8, le=4096)  # pixels, square
    buckets: bool = False  # keep a photo's aspect ratio, with sides that are multiples of `bucket`; never enlarge
    bucket: int = Field(64, ge=8, multiple_of=8)  # pixels
    max_megapixels: float = Field(64, gt=0)
    max_megabytes: float = Field(256, gt=0)
    first_frame: bool = False  # use the first picture of an animation instead of refusing it
    resample: Literal["lanczos", "bilinear", "bicubic"] = omit_default("lanczos")  # the filter that resizes photos
    # Compare samples with the photos at `resolution`, or with the files as they are, as published?
    references: Literal["prepared", "original"] = omit_default("prepared")

    def non_default(self) -> dict[str, Any]:
        """Returns the options, besides the resolution, that change pictures and are not at their defaults."""
        limits = {"resolution", "max_megapixels", "max_megabytes"}
        return self.model_dump(mode="json", exclude_defaults=True, exclude=limits)


class Watch(Strict):
    """Monitoring during training. It changes no result and cannot stop a training."""

    previews_every: int = Field(0, ge=0)  # steps between pictures in previews/, from step 0 on; 0: none
    previews: int = Field(2, ge=1)  # how many of the concept's prompts are sampled
    prompts: tuple[str, ...] = omit_default(())  # instead of the concept's own; {} stands for its token and noun
    tracker: Literal["tensorboard", "wandb"] | None = None  # also log losses there, through accelerate


class Sample(SamplingOptions):  # how pictures are sampled
    images: int = Field(ge=1)  # noises per prompt; the same for every prompt, task and strategy
    plain: int = Field(0, ge=0)  # noises per prompt without the token, to see how the class changes; 0: none
    batch: int = Field(ge=1)  # pictures at a time; batching can change the last bit of a picture
    steps: int = Field(ge=1, le=1000)
    guidance: float = Field(ge=1)
    scheduler: str = "euler"  # one of the family's
    schedulers: dict[Name, str] = omit_default({})  # overrides for single strategies
    seed: int = Field(ge=0)
    responses: int = omit_default(0, ge=0)  # noised pictures of each concept whose prediction is recorded
    # Is the generator's seed a hash of `seed` and its purpose, or `seed` itself, as published?
    noise: Literal["hashed", "seeded"] = omit_default("hashed")


class Score(Strict):  # which metrics score the pictures
    judges: str  # the folder of their weights; DVC tracks it
    metrics: dict[Name, Options] = Field(min_length=1)  # `is` names the class where the key does not


class Report(Strict):  # what the report computes and shows
    confidence: float = Field(0.95, gt=0.5, lt=1)
    identity: Name  # the metric that recognises a picture's concept among all
    paper: bool = False  # show the paper's numbers beside ours
    over_runs: bool = omit_default(False)  # also show mean and standard deviation over orders and seeds, as the paper


class Params(Strict):
    """All parameters of one study."""

    study: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
    source: str  # the folder that the dataset reads; DVC tracks it
    domains: tuple[Name, ...] = Field(min_length=1)
    strategies: tuple[Name, ...] = Field(min_length=1)
    orders: tuple[Name, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    tasks: tuple[Task, ...] = Field(min_length=1)
    sequences: dict[Name, dict[Name, dict[str, str]]]
    dataset: PlugIn
    base: PlugIn
    prepare: Prepare
    train: Train
    strategy: dict[Name, Options]  # options by strategy; {is: NAME} makes a variant, {train: {...}} trains otherwise
    sample: Sample
    score: Score
    report: Report
    watch: Watch = Watch()

    @property
    def data(self) -> Dataset:
        """A new instance of the dataset, which reads its folder as it is now. Keep it for repeated use."""
        if "root" in self.dataset.options:
            raise ConfigFault("dataset.options.root: set `source` instead, the folder whose changes DVC notices.")
        return datasets.make(self.dataset.name, {**self.dataset.options, "root": self.source}, "dataset: ")

    @property
    def family(self) -> Family:
        """The base model: one cached instance per name, options and weights."""
        return families.get(self.base.name, self.base.options, "base: ")

    def make_strategy(self, strategy: str) -> Strategy:
        """Makes the strategy of this name with its options.

        Raises:
            ConfigFault: there is no such strategy, or an option is wrong.
        """
        return chosen(strategy, self.strategy.get(strategy, {}))[1]

    def training(self, strategy: str) -> Train:
        """Returns the training options of a strategy: section `train`, with strategy.NAME.train in its place.

        Raises:
            ConfigFault: an option is unknown or out of range.
        """
        if not (changes := self.strategy.get(strategy, {}).get("train")):
            return self.train
        try:
            return Train.model_validate_json(json.dumps(self.train.model_dump(mode="json") | changes))
        except (ValidationError, TypeError) as error:
            said = explain(error, Train) if isinstance(error, ValidationError) else "must be keys of section train."
            raise ConfigFault(f"strategy.{strategy}.train: {said}") from None

    def sampling(self, strategy: str | None) -> Sample:
        """Returns the sampling options of a strategy, with its scheduler; None means the base."""
        scheduler = self.sample.schedulers.get(strategy or "", self.sample.scheduler)
        return self.sample.model_copy(update={"scheduler": scheduler, "schedulers": {}})

    @property
    def judges(self) -> dict[str, Metric]:
        """The metrics by their keys in params.yaml."""
        return {key: metric_of(key, entry, self.score.judges) for key, entry in self.score.metrics.items()}

    def task(self, index: str) -> Task:
        """Returns the task at a position such as "01", which must exist."""
        return next(task for task in self.tasks if task.index == index)

    def sequence(self, domain: str, order: str) -> dict[str, str]:
        """Returns the names of the concepts of one order by position: "01" -> name.

        Raises:
            ConfigFault: params.yaml has no such domain or order, or its sequence has gaps.
        """
        orders = self.sequences.get(domain, {})
        if order not in orders:
            raise ConfigFault(f"sequences: there is no {domain}.{order}. {nearest(order, orders)}")
        names = orders[order]
        if missing := [f"t{task.index}" for task in self.tasks if f"t{task.index}" not in names]:
            raise ConfigFault(
                f"sequences.{domain}.{order}: no concept for {', '.join(missing)}. Add it or shorten tasks."
            )
        return {task.index: names[f"t{task.index}"] for task in self.tasks}

    def concepts(self, domain: str, order: str) -> dict[str, Concept]:
        """Returns the concepts of one order by position; errors as in `sequence` and `Dataset.concept`."""
        data = self.data
        return {index: data.concept(domain, name) for index, name in self.sequence(domain, order).items()}


def load(path: Path = PARAMS) -> Params:
    """Reads params.yaml and checks every rule that needs no photos and no weights.

    Raises:
        ConfigFault: the file is missing, is not plain YAML 1.2, or breaks a rule; the message starts with file:line.
    """
    document = read_yaml(path)
    try:
        params = Params.model_validate_json(json.dumps(document.tree))
    except ValidationError as error:
        keys = tuple(first_error(error)["loc"])
        raise ConfigFault(f"{document.where(keys)}: {_reason(error, keys)}") from None
    try:
        _cross_check(params)
    except ConfigFault as fault:
        raise ConfigFault(f"{document.place(str(fault))}: {fault}") from None
    return params


def _reason(error: ValidationError, keys: tuple[Any, ...]) -> str:
    """Returns pydantic's first error, with the known keys of its section."""
    model: type[Strict] = Params
    for key in keys[:-1]:
        kind = getattr(model.model_fields.get(str(key)), "annotation", None)
        if isinstance(kind, type) and issubclass(kind, Strict):
            model = kind
    return explain(error, model)


def _cross_check(params: Params) -> None:
    previous = "00"
    for task in params.tasks:
        if task.previous != previous or int(task.index) != int(previous) + 1:
            expected = f"{int(previous) + 1:02d} after {previous}"
            raise ConfigFault(f"tasks: position {task.index} follows {task.previous}, expected {expected}. Fix it.")
        previous = task.index
    if params.sample.responses and any(task.sees != "data" for task in params.tasks):
        raise ConfigFault("sample.responses: every model must see the same pictures. Set `sees: data` in all tasks.")
    for name in params.sample.schedulers:
        chosen(name, params.strategy.get(name, {}), "sample.schedulers: ")
    for number, name in enumerate(params.strategies):
        if name not in params.strategy:  # the line to correct is in the list, since section strategy has none for it
            chosen(name, {}, f"strategies.{number}: ")
    for name in sorted({*params.strategies, *params.strategy}):
        params.make_strategy(name)
        _check_rank(params, name)
    data = params.data
    _check_identity(params)
    for number, domain in enumerate(params.domains):
        data.check(domain, where=f"domains.{number}: ")
        for place, order in enumerate(params.orders):
            _check_sequence(params, domain, f"orders.{place}", order)
            names = list(params.sequence(domain, order).values())
            for index, name in params.sequence(domain, order).items():
                data.check(domain, name, f"sequences.{domain}.{order}.t{index}: ")
            if repeated := ", ".join(sorted({name for name in names if names.count(name) > 1})):
                raise ConfigFault(f"sequences.{domain}.{order}: {repeated} is at two positions. Remove one.")
            concepts = for_all(partial(data.concept, domain), names)  # reports all concepts at once
            _check_tokens(concepts, f"sequences.{domain}.{order}")
            for name in params.strategies:
                prior, rehearse = params.training(name).prior, params.make_strategy(name).rehearse
                for facts in map(facts_of, concepts):
                    if prior:
                        class_prompt(prior.prompt, facts)
                    if rehearse and rehearse.needs_classes:
                        class_prompt(None, facts, f"strategy.{name}.rehearse")
    _check_family(params)


def _check_sequence(params: Params, domain: str, key: str, order: str) -> None:
    orders = params.sequences.get(domain, {})
    if not orders:
        raise ConfigFault(f"sequences: there is none for domain '{domain}'. {nearest(domain, params.sequences)}")
    if order not in orders:
        raise ConfigFault(f"{key}: there is no sequences.{domain}.{order}. {nearest(order, orders)}")


def _check_identity(params: Params) -> None:
    judges, identity = params.judges, params.report.identity
    usable = [name for name, judge in judges.items() if judge.recognises]
    if identity not in judges:
        raise ConfigFault(f"report.identity: '{identity}' is not in score.metrics. {nearest(identity, judges)}")
    if identity not in usable:
        raise ConfigFault(
            f"report.identity: '{identity}' cannot tell concepts apart: it compares with the prompt, or stores no "
            f"vectors of pictures. {nearest(identity, usable)}"
        )


def _check_tokens(concepts: list[Concept], where: str) -> None:
    tokens: dict[str, str] = {}
    for concept in concepts:
        other = tokens.setdefault(concept.token, concept.name)
        if other != concept.name:
            raise ConfigFault(f"{where}: {other} and {concept.name} share the token '{concept.token}'. Change one.")


def _check_family(params: Params) -> None:
    overrides = {f"sample.schedulers.{name}": value for name, value in params.sample.schedulers.items()}
    schedulers = {"sample.scheduler": params.sample.scheduler} | overrides
    check_options(params.family, params.base.name, schedulers, params.train, params.sample, params.sample.guidance)


def _check_rank(params: Params, strategy: str) -> None:
    width, module = min((min(shape), name) for name, shape in params.family.shapes().items())
    rank = params.training(strategy).rank
    where = "train.rank" if rank == params.train.rank else f"strategy.{strategy}.train.rank"
    if rank > width:
        raise ConfigFault(f"{where}: {rank} is more than the width of {module}, {width}. Lower it.")
