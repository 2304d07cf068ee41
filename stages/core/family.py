"""What a family is: a kind of base model, as far as training and sampling need to know it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from PIL import Image
from pydantic import Field, StringConstraints
from torch import Tensor, nn

from stages.adapters.algebra import Adapter, Delta
from stages.core.registry import Registry
from stages.runtime.faults import ConfigFault, nearest
from stages.runtime.strict import Strict

Encodings = Mapping[str, Tensor]


class Teaching(Strict):
    """Options of the section `train` of params.yaml that mean something to some families only: see
    `Family.training_options`."""

    layers: Literal["grouped", "peft"] = "grouped"  # LoRA in few large operations, or one layer of peft per matrix
    snr_gamma: float | None = Field(None, gt=0)  # min-SNR weighting of the loss (arXiv 2303.09556); 5 in the paper
    checkpointing: bool = False  # compute activations again rather than keep them: less memory, more time
    conditioning: Literal["square", "source"] = "square"  # SDXL reads one size for all, or each photo's size and crop


@dataclass(frozen=True)
class Row:
    """One picture's part in a step."""

    image: int  # which of the pictures
    prompt: int  # which of the prompts describes it
    seed: int  # of its noise, its time and its draw from the posterior
    weight: float  # of its error in the loss


@dataclass(frozen=True)
class KnownAs:
    """What other programs call a kind of base, in the metadata of adapters."""

    architecture: str = "unknown"  # as in modelspec.architecture, without its /lora
    version: str = "unknown"  # as in kohya's ss_base_model_version
    network: str = "networks.lora"  # ss_network_module: which of kohya's scripts knows such adapters
    implementation: str = "diffusers"  # modelspec.implementation in kohya's format: whose code has modules so named


@dataclass(frozen=True)
class ModuleName:
    """What other programs call one module that adapters shift.

    Files of diffusers call it `part.module`, those of peft `base_model.model.module`, those of kohya `kohya`. Exports
    use these names; imports know `others` too.
    """

    part: str  # the model of a diffusers pipeline that has it: unet, transformer, text_encoder
    module: str  # its name there, with dots
    kohya: str  # the whole of it, without dots: lora_unet_..., lora_transformer_...
    factors: tuple[str, str] = ("lora_A", "lora_B")  # what diffusers' files call its A and B
    ending: str = ""  # where versions of a library differ in what a name begins with: what all of them end with
    text: bool = False  # is it in a text encoder?
    # Further names under which an import knows it, and the format that has them: kohya, diffusers or peft.
    others: Mapping[str, str] = field(default_factory=dict, hash=False)


class Family(Strict, ABC):
    """Its fields are its options in params.yaml: where the weights are, which revision, which number format.

    Values of `sample.scheduler` that are not in `schedulers`, and options of `train` that this family does not read,
    are refused when params.yaml is loaded.
    """

    known_as: ClassVar[KnownAs] = KnownAs()
    schedulers: ClassVar[tuple[str, ...]] = ()  # the values of sample.scheduler that `sample` takes
    training_options: ClassVar[frozenset[str]] = frozenset()  # the fields of `Teaching` that its training reads

    adapter: str = ""  # a folder of stages.tools.import_lora: what the first task goes on from, and its revision
    adapter_revision: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Names weights, revision and number format: what was encoded or sampled under one is valid only under it.

        Raises:
            InputFault: the weights are missing, or are not those of the pinned revision.
        """

    @property
    def number_format(self) -> str:
        """What sampling computes in, by its name in torch: how much of a small shift survives depends on it."""
        return "float32"

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The modules that adapters shift: name -> (out, in)."""

    @abstractmethod
    def weight(self, name: str) -> Tensor:
        """One of those modules' weights in the base, [out, in], as stored."""

    @abstractmethod
    def module_names(self) -> Mapping[str, ModuleName]:
        """For every module of `shapes` its names in other programs' files; no two modules share one."""

    def why_unknown(self, names: Sequence[str]) -> str:
        """Why a file of an adapter may have these names, which are in no `module_names`; empty if that is not known."""
        return ""

    @abstractmethod
    def encode_images(self, images: Sequence[Image.Image]) -> Encodings:
        """What training needs of its pictures, computed once: the moments of the autoencoder's posterior."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Encodings:
        """What training and sampling need of prompts, computed once: the same whatever the base is shifted by."""

    @abstractmethod
    def learner(self, frozen: Delta | None, adapter: Adapter, options: Teaching | None = None) -> Learner:
        """The base, shifted by `frozen` and carrying the adapter, ready to be trained."""

    @abstractmethod
    def sample(
        self,
        prompts: Encodings,
        noise: Tensor,
        steps: int,
        guidance: float,
        scheduler: str,
        batch: int | None = None,
    ) -> list[Image.Image]:
        """Pictures from the model that `shift` made.

        One per row of `noise` [n, channels, height, width] and of `prompts`, `batch` of them at a time; None: all.
        """

    @abstractmethod
    def shift(self, delta: Delta) -> None:
        """Makes the model base + delta, in place: in float32, rounded once to the sampling number format."""

    @abstractmethod
    def noise_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""


class Learner(ABC):
    """A model in training. Only the adapter's matrices are trained."""

    magnify = (
        1.0  # by which a loss is multiplied, so that its gradient does not vanish in the number format; a power of two
    )

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser trains, in a stable order."""

    @abstractmethod
    def study(self, images: Sequence[Encodings], prompts: Encodings) -> None:
        """What it is to learn from, before the first step: what stays the same in every step is computed here.

        Args:
            images: one per picture, each of one row; pictures of different sizes have encodings of different shapes.
            prompts: one row per prompt.
        """

    @abstractmethod
    def inputs(self, rows: Sequence[Row]) -> Encodings:
        """All that a step needs of these pictures, which are of one size, with their noise drawn from their seeds."""

    @abstractmethod
    def loss(self, inputs: Encodings) -> Tensor:
        """The sum of the rows' weighted errors: a function of tensors of fixed shapes, so that it can be recorded."""

    @abstractmethod
    def adapter(self) -> Adapter:
        """The adapter as it is now, float32 on the CPU."""

    @abstractmethod
    def aside(self) -> AbstractContextManager[None]:
        """Within the block the family is free for other uses, such as sampling; afterwards training goes on."""


def check_options(family: Family, name: str, schedulers: Mapping[str, str], options: Teaching) -> None:
    """Refuses what this family does not read: ignored, it would look as if it had an effect.

    Args:
        name: of the family, as params.yaml has it.
        schedulers: by their keys in params.yaml.

    Raises:
        ConfigFault: a scheduler is not one of the family's, or a training option that it does not read is set.
    """
    for key, scheduler in schedulers.items():
        if scheduler not in family.schedulers:
            known = nearest(scheduler, family.schedulers)
            raise ConfigFault(f"{key}: base {name} has no scheduler '{scheduler}'. {known}")
    for option, field_info in Teaching.model_fields.items():
        value = getattr(options, option)
        if value != field_info.default and option not in family.training_options:
            known = ", ".join(sorted(family.training_options)) or "none"
            raise ConfigFault(
                f"train.{option}: base {name} does not read it, so it cannot be {value!r}. Leave it out; of such "
                f"options it reads: {known}."
            )


families: Registry[Family] = Registry("family", "stages.families", remembers=1)  # for weights take memory
