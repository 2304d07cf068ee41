"""The interface of a family: a kind of base model, as training and sampling use it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from PIL import Image
from pydantic import Field, StringConstraints
from torch import Tensor, nn

from stages.adapters.algebra import Adapter, Delta, Matrices
from stages.core.registry import Registry
from stages.core.rehearsal import CAPTIONS
from stages.core.spare import spare
from stages.runtime.strict import Strict, omit_default

Encodings = Mapping[str, Tensor]


class TrainingOptions(Strict):
    """Training options that only some families read; `Family.training_options` lists which."""

    layers: Literal["grouped", "peft"] = "grouped"  # LoRA in few large operations, or one peft layer per matrix
    snr_gamma: float | None = Field(None, gt=0)  # min-SNR weighting of the loss (arXiv 2303.09556); 5 in that paper
    checkpointing: bool = False  # recompute activations instead of storing them: less memory, more time
    conditioning: Literal["square", "source"] = "square"  # SDXL reads one size for all, or each photo's size and crop
    fixed_a: bool = omit_default(False)  # train B alone and leave A as it starts (LoRA-FA, arXiv 2308.03303)


class SamplingOptions(Strict):
    """Sampling options that only some families read; `Family.sampling_options` lists which."""

    guided: float = omit_default(1.0, gt=0, le=1)  # share of the steps with guidance: the last ones have none

    @property
    def further(self) -> dict[str, Any]:
        """Further arguments of `Family.sample`: those of these options that are set."""
        return {} if self.guided == 1 else {"guided": self.guided}


@dataclass(frozen=True)
class Row:
    """One picture of a training step."""

    image: int  # index of the picture
    prompt: int  # index of its prompt
    seed: int  # of its noise, its timestep and its draw from the posterior
    weight: float  # of its error in the loss
    rehearsed: bool = False  # is the prediction of the model without the adapter wanted, in place of the truth?


@dataclass(frozen=True)
class KnownAs:
    """What other programs call a kind of base in the metadata of adapters."""

    architecture: str = "unknown"  # modelspec.architecture, without its /lora
    version: str = "unknown"  # kohya's ss_base_model_version
    network: str = "networks.lora"  # ss_network_module: the kohya script that reads such adapters
    implementation: str = "diffusers"  # modelspec.implementation in kohya's format: the code whose module names it uses
    synonyms: tuple[str, ...] = ()  # patterns of other names for architecture and version that trainers write


@dataclass(frozen=True)
class ModuleName:
    """What other programs call one module that adapters change.

    Its name is `part.module` in diffusers files, `base_model.model.module` in peft files and `kohya` in kohya files.
    Exports use these names; imports also accept `others`.
    """

    part: str  # the model of a diffusers pipeline that contains it: unet, transformer, text_encoder
    module: str  # its name there, with dots
    kohya: str  # the full name, without dots: lora_unet_..., lora_transformer_...
    factors: tuple[str, str] = ("lora_A", "lora_B")  # what diffusers files call its A and B
    ending: str = ""  # the common suffix of its name, where versions of a library use different prefixes
    text: bool = False  # is it in a text encoder?
    # Other names that imports accept, each with the format that uses it: kohya, diffusers or peft.
    others: Mapping[str, str] = field(default_factory=dict, hash=False)


class Family(Strict, ABC):
    """A kind of base model. Its fields are its options in params.yaml: path, revision and number format of the weights.

    Loading params.yaml refuses a `sample.scheduler` that is not in `schedulers`, and `train` options that this family
    does not read.
    """

    known_as: ClassVar[KnownAs] = KnownAs()
    schedulers: ClassVar[tuple[str, ...]] = ()  # the values of sample.scheduler that `sample` accepts
    training_options: ClassVar[frozenset[str]] = frozenset()  # the fields of `TrainingOptions` that its training reads
    sampling_options: ClassVar[frozenset[str]] = frozenset()  # the fields of `SamplingOptions` that `sample` accepts

    adapter: str = ""  # a folder written by stages.tools.import_lora that the first task continues from; its revision:
    adapter_revision: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies weights, revision and number format; caches of encodings and samples are keyed by it.

        Raises:
            InputFault: the weights are missing or not those of the pinned revision.
        """

    @property
    def number_format(self) -> str:
        """The number format of sampling, by its name in torch. How much of a small delta survives depends on it."""
        return "float32"

    @property
    def captions(self) -> tuple[str, ...]:
        """Captions of anything that the base understands and that name no concept, for rehearsal."""
        return CAPTIONS

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Returns the modules that adapters change: name -> (out, in)."""

    @abstractmethod
    def weight(self, name: str) -> Tensor:
        """Returns the base's weight of one of those modules, [out, in], in its stored number format."""

    @abstractmethod
    def module_names(self) -> Mapping[str, ModuleName]:
        """Returns the names in other programs' files of every module in `shapes`; no two modules share a name."""

    def why_unknown(self, names: Sequence[str]) -> str:
        """Explains why an adapter file may contain names that `module_names` lacks; empty if unknown."""
        return ""

    @abstractmethod
    def encode_images(self, images: Sequence[Image.Image]) -> Encodings:
        """Encodes training pictures, once: the moments of the autoencoder's posterior, one row per picture."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Encodings:
        """Encodes prompts for training and sampling, once, one row each; the model's current delta has no effect."""

    def read_part(self, prompt: str) -> str:
        """Returns the beginning of a prompt that the text encoders read: all of it, unless it is longer than they read.

        Needs no weights in memory.
        """
        return prompt

    @abstractmethod
    def learner(self, frozen: Delta | None, adapter: Adapter, options: TrainingOptions | None = None) -> Learner:
        """Returns the model base + frozen + adapter, ready for training.

        Args:
            frozen: a delta that stays fixed; None for none.
            adapter: the adapter to train, with its initial values.
            options: the training options that this family reads; None for the defaults.
        """

    def joined(self, learners: Sequence[Learner]) -> JoinedLearners:
        """Returns what computes the losses of several of its learners, which are prepared, in one pass.

        Raises:
            ValueError: they cannot share a pass, with the reason.
        """
        raise ValueError("this base trains one adapter at a time")

    @abstractmethod
    def sample(
        self,
        prompts: Encodings,
        noise: Tensor,
        steps: int,
        guidance: float,
        scheduler: str,
        batch: int | None = None,
        guided: float = 1.0,
    ) -> list[Image.Image]:
        """Samples pictures from the model that `shift` set: one per row of `noise` and `prompts`.

        Args:
            prompts: from `encode_prompts`, n rows.
            noise: the initial latents, [n, channels, height, width].
            steps: denoising steps.
            guidance: the scale of classifier-free guidance; 1 means none.
            scheduler: one of `schedulers`.
            batch: pictures at a time; None means all.
            guided: share of the steps with guidance; given only if it is one of `sampling_options`.
        """

    @abstractmethod
    def shift(self, delta: Delta) -> None:
        """Sets the model to base + delta, in place: added in float32, then rounded to the sampling number format."""

    @abstractmethod
    def noise_shape(self) -> tuple[int, int, int]:
        """Returns channels, height and width of a latent."""


class Learner(ABC):
    """A model in training. Only the adapter's matrices are trained."""

    loss_scale = 1.0  # a power of two; keeps gradients from vanishing in the number format

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """Returns the parameters to train, in a stable order."""

    @abstractmethod
    def prepare(self, images: Sequence[Encodings], prompts: Encodings) -> None:
        """Sets the training data, before the first step, and precomputes what is the same in every step.

        Args:
            images: one encoding per picture, each of one row; pictures of different sizes have different shapes.
            prompts: one row per prompt.
        """

    @abstractmethod
    def inputs(self, rows: Sequence[Row], answers: Mapping[Row, Tensor] | None = None) -> Encodings:
        """Returns the inputs of `loss` for these pictures, which have one size; noise is drawn from their seeds.

        Args:
            answers: what `answer` returned for the rows that are rehearsed, in place of their targets in `wanted`.
        """

    @abstractmethod
    def loss(self, inputs: Encodings) -> Tensor:
        """Returns the sum of the rows' weighted errors; shapes are fixed, so that a CUDA graph can record it."""

    def answer(self, inputs: Encodings) -> Tensor:
        """Returns what the model without its adapter predicts for such inputs: the targets of rehearsed rows.

        Shapes are fixed, as those of `loss`; without gradients. A family that does not define it cannot rehearse.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot rehearse")

    def views(self, tensors: Sequence[Tensor]) -> tuple[Matrices, Matrices]:
        """Returns A [rank, in] and B [out, rank] of each module as views of tensors that are laid out as `parameters`.

        Without A where it is fixed. A family that does not define it cannot train with a strategy's penalty.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot train with a penalty")

    @abstractmethod
    def predict(self, inputs: Encodings) -> Tensor:
        """Returns what the model predicts for these inputs, [rows, channels, height, width] float32."""

    @abstractmethod
    def adapter(self) -> Adapter:
        """Returns a copy of the adapter's current values, float32 on the CPU."""

    @abstractmethod
    def paused(self) -> AbstractContextManager[None]:
        """Pauses training: within the block the family can be used otherwise, for instance for sampling."""


class JoinedLearners(ABC):
    """Several models in training whose losses are computed in one pass. Each keeps its own parameters."""

    @abstractmethod
    def losses(self, inputs: Sequence[Encodings]) -> Tensor:
        """Returns the loss of each learner, [learners].

        Args:
            inputs: what each learner's `inputs` has returned, of the same names and shapes.
        """


families: Registry[Family] = Registry("family", "stages.families", cache_size=1, dropped=spare.drop)  # large weights
