"""params.yaml, read once into frozen models. Everything that changes a result is in it; nothing else is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from stages.core.dataset import Concept, Dataset, class_prompt, datasets, facts_of
from stages.core.family import Family, Teaching, check_options, families
from stages.core.metric import Metric, metric_of
from stages.core.strategy import Strategy, strategies
from stages.files.yaml import PARAMS, Document, read_yaml
from stages.runtime.faults import ConfigFault, nearest
from stages.runtime.strict import Strict, explain, foremost, unsaid

# What becomes part of a path or of a stage's name.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=64)]
Position = Annotated[str, StringConstraints(pattern=r"^\d\d$")]
Options = dict[str, Any]


class Task(Strict):
    """A position in the sequence. `sees`: sample the prompts of the tasks so far (data/NN) or of all (data)."""

    index: Position
    previous: Position
    sees: str

    @model_validator(mode="after")
    def _sees_itself_or_all(self) -> Task:
        if self.sees not in ("data", f"data/{self.index}"):
            raise ValueError(f"must be data/{self.index} or data")
        return self


class Named(Strict):
    """A plug-in and its options."""

    name: str
    options: Options = Field(default_factory=dict)


class Prepare(Strict):
    resolution: int = Field(ge=8, le=4096)  # pixels, square
    buckets: bool = False  # keep a training photo's shape, as far as sides of whole `bucket` pixels let; not enlarged
    bucket: int = Field(64, ge=8, multiple_of=8)  # pixels that a bucket's sides are multiples of
    max_megapixels: float = Field(64, gt=0)
    max_megabytes: float = Field(256, gt=0)
    first_frame: bool = False  # take the first picture of an animation instead of refusing it
    resample: Literal["lanczos", "bilinear", "bicubic"] = unsaid("lanczos")  # how a photo is resized
    # Are pictures compared with the photos at `resolution`, or with those as they are in their files, as published?
    references: Literal["prepared", "original"] = unsaid("prepared")

    def unusual(self) -> dict[str, Any]:
        """What beside the resolution makes other pictures of the same photos, where it is not the default."""
        limits = {"resolution", "max_megapixels", "max_megabytes"}
        return self.model_dump(mode="json", exclude_defaults=True, exclude=limits)


class Prior(Strict):
    """Prior preservation (DreamBooth, arXiv 2208.12242): pictures of the class that the base itself makes are learnt
    along, so that the class does not turn into the one thing that is taught."""

    images: int = Field(100, ge=1)  # pictures of the class, made once for each base and prompt
    weight: float = Field(1.0, gt=0)  # of their loss
    batch: int = Field(1, ge=1)  # of them in a step, beside the others
    prompt: str | None = None  # {} stands for the class; without it, the training prompt without the token


class Train(Teaching):
    rank: int = Field(ge=1, le=4096)
    alpha: float = Field(gt=0)  # the adapter's shift is alpha / rank * B A
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # how the rate falls to zero, if it does
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(1e-4, ge=0)
    epsilon: float = Field(1e-8, gt=0)
    clip_norm: float = Field(1.0, gt=0)
    reinit: Literal["shared", "per_task"]  # does every task draw the same A, as published, or its own?
    checkpoint_every: int = Field(ge=1)  # steps
    prior: Prior | None = None
    processes: int = Field(1, ge=1, le=64)  # GPUs that share a step's pictures; more than `batch` are of no use


class Watch(Strict):
    """What is looked at while training goes on. Nothing in here changes a result, or can stop a training."""

    previews_every: int = Field(0, ge=0)  # steps between pictures in previews/, from step 0 on; 0: none
    previews: int = Field(2, ge=1)  # of the concept's prompts, how many are sampled
    prompts: tuple[str, ...] = unsaid(())  # instead of the concept's own; {} stands for its words
    tracker: Literal["tensorboard", "wandb"] | None = None  # losses go there as well, through accelerate


class Sample(Strict):
    images: int = Field(ge=1)  # noises per prompt; the same ones for every prompt, task and strategy
    plain: int = Field(0, ge=0)  # noises per prompt without the token, for what becomes of the class; 0: none
    batch: int = Field(ge=1)  # pictures at a time; how they are grouped can change the last bit of a picture
    steps: int = Field(ge=1, le=1000)
    guidance: float = Field(ge=1)
    scheduler: str = "euler"  # one of the family's
    schedulers: dict[Name, str] = unsaid({})  # of single strategies
    seed: int = Field(ge=0)
    # Is the generator's seed a hash of `seed` and what it is for, or `seed` itself, as published?
    noise: Literal["hashed", "seeded"] = unsaid("hashed")


class Score(Strict):
    judges: str  # the folder of their weights: DVC watches it
    metrics: dict[Name, Options] = Field(min_length=1)  # `is` names the class where the key does not


class Report(Strict):
    confidence: float = Field(0.95, gt=0.5, lt=1)
    identity: Name  # the metric by which a picture's concept is recognised among all
    paper: bool = False  # show the numbers known from the paper beside ours
    over_runs: bool = unsaid(False)  # also show mean and standard deviation over orders and seeds, as the paper does


class Params(Strict):
    """One study."""

    study: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
    source: str  # the folder that the dataset reads: DVC watches it
    domains: tuple[Name, ...] = Field(min_length=1)
    strategies: tuple[Name, ...] = Field(min_length=1)
    orders: tuple[Name, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    tasks: tuple[Task, ...] = Field(min_length=1)
    sequences: dict[Name, dict[Name, dict[str, str]]]
    dataset: Named
    base: Named
    prepare: Prepare
    train: Train
    strategy: dict[Name, Options]  # options by strategy
    sample: Sample
    score: Score
    report: Report
    watch: Watch = Watch()

    @property
    def data(self) -> Dataset:
        """The dataset, which sees its folder as it is now; one that is asked much is best looked up once."""
        return datasets.make(self.dataset.name, {"root": self.source, **self.dataset.options}, "dataset: ")

    @property
    def family(self) -> Family:
        """The base: one instance for all parameters that name it with the same options and weights."""
        return families.get(self.base.name, self.base.options, "base: ")

    def rule(self, strategy: str) -> Strategy:
        """The strategy of this name with its options."""
        return strategies.make(strategy, self.strategy.get(strategy), f"strategy.{strategy}: ")

    def sampling(self, strategy: str | None) -> Sample:
        """How pictures of this strategy's models are sampled; None: those of the base."""
        scheduler = self.sample.schedulers.get(strategy or "", self.sample.scheduler)
        return self.sample.model_copy(update={"scheduler": scheduler, "schedulers": {}})

    @property
    def judges(self) -> dict[str, Metric]:
        """The metrics by their keys in params.yaml."""
        return {key: metric_of(key, entry, self.score.judges) for key, entry in self.score.metrics.items()}

    def task(self, index: str) -> Task:
        return next(task for task in self.tasks if task.index == index)

    def sequence(self, domain: str, order: str) -> dict[str, str]:
        """The concepts of one order: position, as "01" -> concept.

        Raises:
            ConfigFault: params.yaml has no such domain or order, or its sequence has gaps.
        """
        try:
            listed = self.sequences[domain][order]
        except KeyError:
            raise ConfigFault(
                f"sequences: there is no {domain}.{order}. {nearest(order, self.sequences.get(domain, {}))}"
            ) from None
        wanted = [f"t{task.index}" for task in self.tasks]
        missing = [key for key in wanted if key not in listed]
        if missing:
            raise ConfigFault(f"sequences.{domain}.{order}: no concept for {', '.join(missing)}, which tasks lists.")
        return {task.index: listed[f"t{task.index}"] for task in self.tasks}

    def concepts(self, domain: str, order: str) -> dict[str, Concept]:
        """The same, as concepts."""
        data = self.data
        return {index: data.concept(domain, name) for index, name in self.sequence(domain, order).items()}


def load(path: Path = PARAMS) -> Params:
    """The parameters, checked against every rule that needs no photo and no weights.

    Raises:
        ConfigFault: the file is not there, is not plain YAML 1.2, or breaks a rule; the message has file:line.
    """
    document = read_yaml(path)
    try:
        params = Params.model_validate_json(json.dumps(document.tree))
    except ValidationError as error:
        keys = tuple(foremost(error)["loc"])
        raise ConfigFault(f"{document.where(keys)}: {_complaint(error, keys)}") from None
    try:
        _cross_check(params)
    except ConfigFault as fault:
        raise ConfigFault(f"{document.where(_guess(str(fault), document))}: {fault}") from None
    return params


def _complaint(error: ValidationError, keys: tuple[Any, ...]) -> str:
    """The complaint with the known keys of the section that it is about."""
    model: type[Strict] = Params
    for key in keys[:-1]:
        field = model.model_fields.get(str(key))
        kind = field.annotation if field else None
        if isinstance(kind, type) and issubclass(kind, Strict):
            model = kind
    return explain(error, model)


def _guess(message: str, document: Document) -> tuple[Any, ...]:
    """The keys that a message begins with, as in 'strategy.magmax: ...'."""
    head = re.match(r"[a-z_0-9.]+(?=: )", message)
    return tuple(head.group().split(".")) if head else ()


def _cross_check(params: Params) -> None:
    previous = "00"
    for task in params.tasks:
        if task.previous != previous or int(task.index) != int(previous) + 1:
            expected = f"{int(previous) + 1:02d} after {previous}"
            raise ConfigFault(f"tasks: position {task.index} follows {task.previous}, expected {expected}.")
        previous = task.index
    for name in {*params.strategies, *params.strategy}:
        params.rule(name)
    for name in params.sample.schedulers:
        strategies.make(name, params.strategy.get(name), "sample.schedulers: ")
    data = params.data
    _check_identity(params)
    for domain in params.domains:
        data.check(domain, where="domains: ")
        for order in params.orders:
            listed = list(params.sequence(domain, order).values())
            for name in listed:
                data.check(domain, name, f"sequences.{domain}.{order}: ")
            doubled = {name for name in listed if listed.count(name) > 1}
            if doubled:
                raise ConfigFault(f"sequences.{domain}.{order}: {', '.join(sorted(doubled))} stands at two positions.")
            concepts = [data.concept(domain, name) for name in listed]
            _check_tokens(concepts, f"sequences.{domain}.{order}")
            _check_classes(params.train.prior, concepts)
    _check_family(params)
    _check_rank(params)


def _check_identity(params: Params) -> None:
    judges, identity = params.judges, params.report.identity
    able = [name for name, judge in judges.items() if judge.recognises]
    if identity not in judges:
        raise ConfigFault(f"report.identity: '{identity}' is not in score.metrics. {nearest(identity, judges)}")
    if identity not in able:
        raise ConfigFault(
            f"report.identity: '{identity}' cannot tell concepts apart: it compares with the prompt, or stores no "
            f"vectors of pictures. {nearest(identity, able)}"
        )


def _check_tokens(concepts: list[Concept], where: str) -> None:
    tokens: dict[str, str] = {}
    for concept in concepts:
        other = tokens.setdefault(concept.token, concept.name)
        if other != concept.name:
            raise ConfigFault(
                f"{where}: {other} and {concept.name} share the token '{concept.token}'. Give one of them another."
            )


def _check_classes(prior: Prior | None, concepts: list[Concept]) -> None:
    if prior:
        for concept in concepts:
            class_prompt(prior.prompt, facts_of(concept))


def _check_family(params: Params) -> None:
    chosen = {f"sample.schedulers.{name}": value for name, value in params.sample.schedulers.items()}
    check_options(params.family, params.base.name, {"sample.scheduler": params.sample.scheduler} | chosen, params.train)


def _check_rank(params: Params) -> None:
    narrow = min((min(shape), name) for name, shape in params.family.shapes().items())
    if params.train.rank > narrow[0]:
        raise ConfigFault(f"train.rank: {params.train.rank} is more than {narrow[1]} is wide ({narrow[0]}).")
