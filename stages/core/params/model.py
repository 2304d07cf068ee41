"""The sections of params.yaml as frozen models."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from stages.core.dataset import Concept, Dataset, datasets
from stages.core.family import Family, SamplingOptions, families
from stages.core.metric import Metric, metric_of
from stages.core.strategy import Strategy, chosen
from stages.core.training import Train
from stages.runtime.faults import ConfigFault, nearest
from stages.runtime.strict import Name, Position, Seed, Strict, StudyName, distinct, explain, omit_default

Options = dict[str, Any]
Names = Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(distinct)]


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

    @property
    def level(self) -> float:
        """The corrected p up to which a difference is significant."""
        return 1 - self.confidence


class Params(Strict):
    """All parameters of one study."""

    study: StudyName
    source: str  # the folder that the dataset reads; DVC tracks it
    domains: Names
    strategies: Names
    orders: Names
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(distinct)]
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

    def plug_in(self, strategy: str) -> tuple[str, Strategy]:
        """The plug-in that a strategy of this name is, and the strategy with its options.

        Raises:
            ConfigFault: there is no such strategy, or an option is wrong.
        """
        return chosen(strategy, self.strategy.get(strategy, {}))

    def make_strategy(self, strategy: str) -> Strategy:
        """Makes the strategy of this name with its options; errors as in `plug_in`."""
        return self.plug_in(strategy)[1]

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

    @property
    def positions(self) -> list[str]:
        """The positions of the tasks: "01", "02", ..."""
        return [task.index for task in self.tasks]

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
