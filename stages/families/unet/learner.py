"""A UNet in training: its loss with LoRA in the attention, on precomputed encodings.

If adapters change the text encoders too, prompts are token ids and are encoded at every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from stages.adapters.algebra import Adapter, Delta, Matrices
from stages.core.family import Encodings, Learner, Row, TrainingOptions
from stages.families.unet.compiled.blocks import compile_blocks
from stages.families.unet.lora.grouped import Grouped
from stages.families.unet.lora.layers import Layers, PerMatrix
from stages.families.unet.names import part_of
from stages.families.unet.pipeline import signal_at
from stages.families.unet.text_encoders import own_name, renamed
from stages.runtime.device import device
from stages.runtime.seeds import generator

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DConditionModel

LAYERS: dict[str, type[Layers]] = {"grouped": Grouped, "peft": PerMatrix}
# In float16 the gradient of a mean over a latent's elements underflows without a loss scale.
LOSS_SCALES = {torch.float16: 2.0**12}


class TrainableFamily(Protocol):
    """What a learner needs of its family; see `UNetFamily`."""

    @property
    def pipeline(self) -> Any: ...

    @property
    def adapted_parts(self) -> tuple[str, ...]: ...

    @property
    def text_encoders(self) -> bool: ...

    @property
    def compile(self) -> bool | Literal["blocks"]: ...

    def shift(self, delta: Delta) -> None: ...

    def only_on_device(self, *parts: str) -> None: ...

    def embed(self, tokens: Encodings) -> dict[str, Tensor]: ...

    def time_ids(self, count: int) -> Tensor: ...

    def conditioning(self, encodings: Encodings, time_ids: Tensor) -> dict[str, Tensor]: ...


class UNetLearner(Learner):
    """The frozen weights in the family's number format, the adapter in float32."""

    images: Sequence[Encodings]
    prompts: dict[str, Tensor]

    def __init__(self, family: TrainableFamily, frozen: Delta, adapter: Adapter, options: TrainingOptions) -> None:
        from diffusers import DDPMScheduler

        self.family, self.frozen, self.options = family, frozen, options
        self.unet: UNet2DConditionModel = family.pipeline.unet
        family.only_on_device(*family.adapted_parts)
        family.shift(frozen)
        self.names, self.layers = self._split(adapter)
        self.schedule: DDPMScheduler = DDPMScheduler.from_config(family.pipeline.scheduler.config)
        self.signal = signal_at(self.schedule)
        self.loss_scale = LOSS_SCALES.get(self.unet.dtype, 1.0)
        self.frame = family.time_ids(1).cpu()  # once: a copy from the device waits for the step before
        self._install()

    def _split(self, adapter: Adapter) -> tuple[dict[str, dict[str, str]], dict[str, Layers]]:
        """Splits the adapter by part of the pipeline: its modules' own names, and its layers."""
        names: dict[str, dict[str, str]] = {}
        layers: dict[str, Layers] = {}
        for name in self.family.adapted_parts:
            model = getattr(self.family.pipeline, name)
            names[name] = {module: own_name(model, module) for module in adapter.a if part_of(module)[0] == name}
            kind = LAYERS[self.options.layers] if name == "unet" else PerMatrix
            layers[name] = kind(model, renamed(adapter, names[name]), self.options.fixed_a)
        return names, layers

    def _install(self) -> None:
        self.unet.train()  # first, because it tells `layers.remove` that there may be something
        for layers in self.layers.values():
            layers.install()
        if self.options.checkpointing:
            self.unet.enable_gradient_checkpointing()
        else:
            self.unet.disable_gradient_checkpointing()
            if self.family.compile and isinstance(self.layers["unet"], Grouped):
                compile_blocks(self.unet, training=True)

    def renew(self, frozen: Delta, adapter: Adapter) -> bool:
        """Becomes the learner of another frozen delta and adapter, in the same memory; False if they do not fit."""
        layers, own = self.layers["unet"], renamed(adapter, self.names["unet"])
        if not isinstance(layers, Grouped) or not layers.fits(own):
            return False
        self.frozen = frozen
        self.family.only_on_device(*self.family.adapted_parts)
        self.family.shift(frozen)
        layers.refresh(own)
        self._install()
        return True

    def rest(self) -> bool:
        """Frees what `prepare` has made, since constants of hundreds of prompts are gigabytes; False if `renew` cannot
        take any adapter."""
        self.images, self.prompts = [], {}
        return isinstance(self.layers["unet"], Grouped) and not self.family.text_encoders

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for layers in self.layers.values() for parameter in layers.parameters]

    @torch.no_grad()
    def prepare(self, images: Sequence[Encodings], prompts: Encodings) -> None:
        self.images, self.prompts = images, {name: value.to(device()) for name, value in prompts.items()}
        if not self.family.text_encoders:
            self.prompts = self._with_constants(
                {name: value.to(self.unet.dtype) for name, value in self.prompts.items()}
            )

    def _with_constants(self, embedded: Encodings) -> dict[str, Tensor]:
        return {**embedded, **self.layers["unet"].constants(embedded["text"])}

    def inputs(self, rows: Sequence[Row], answers: Mapping[Row, Tensor] | None = None) -> Encodings:
        """Noisy latents, times and targets of the rows: noise, or velocity if the scheduler predicts velocity."""
        drawn = [self._draw(row) for row in rows]
        clean, noise, times = (torch.stack(column) for column in zip(*drawn, strict=True))
        clean = clean * self.family.pipeline.vae.config.scaling_factor
        signal, share = (factor[times, None, None, None] for factor in self._mixture())
        epsilon = self.schedule.config.prediction_type == "epsilon"
        weight = torch.tensor([row.weight for row in rows])
        rehearsed = torch.tensor([row.rehearsed for row in rows])
        if self.options.snr_gamma is not None:
            weight = weight * torch.where(rehearsed, 1.0, min_snr(self._snr()[times], self.options.snr_gamma, epsilon))
        frames = [self.images[row.image].get("frame", self.frame) for row in rows]
        values = {
            "noisy": signal * clean + share * noise,
            "wanted": noise if epsilon else signal * noise - share * clean,
            "times": times,
            "weight": weight,
            "time_ids": torch.cat(frames).float(),
        }
        # Stacked, because indexing by a list copies the indices to the device and synchronises.
        text = {name: torch.stack([value[row.prompt] for row in rows]) for name, value in self.prompts.items()}
        ready = {name: to_device(value) for name, value in values.items()} | text
        if answers:
            wanted = zip(rows, ready["wanted"].unbind(), strict=True)
            ready["wanted"] = torch.stack([answers[row] if row.rehearsed else target for row, target in wanted])
        return ready

    def _draw(self, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        """Draws a latent from the posterior of the picture, its noise and its time, all from the row's seed."""
        g = generator(row.seed)
        mean, std = self.images[row.image]["moments"][0]
        latent = mean + std * torch.randn(mean.shape, generator=g)
        noise = torch.randn(mean.shape, generator=g)
        return latent, noise, torch.randint(self.schedule.config.num_train_timesteps, (), generator=g)

    def _mixture(self) -> tuple[Tensor, Tensor]:
        """The factors of picture and noise at each time, [times], as DDPMScheduler's `add_noise` and `get_velocity`.

        The square roots are rounded from float64: MKL's in float32 are approximate and differ between vendors.
        """
        return self.signal.sqrt().float(), (1 - self.signal).sqrt().float()

    def _snr(self) -> Tensor:
        """The signal-to-noise ratio at each time, [times]."""
        return (self.signal / (1 - self.signal)).float()

    def loss(self, inputs: Encodings) -> Tensor:
        """The weighted sum of each row's mean squared error."""
        return self.errors(inputs, self.layers["unet"]).sum()

    def errors(self, inputs: Encodings, layers: Layers) -> Tensor:
        """The weighted mean squared error of each row.

        Args:
            inputs: of this learner's rows, or of those of several chains.
            layers: the installed layers of the UNet: this learner's, or those of all chains.
        """
        predicted = self._predicted(inputs, layers)
        if not self.options.checkpointing:
            layers.end()
        errors = nn.functional.mse_loss(predicted, inputs["wanted"], reduction="none").mean((1, 2, 3))
        return errors * inputs["weight"]

    @torch.no_grad()
    def predict(self, inputs: Encodings) -> Tensor:
        predicted = self._predicted(inputs, self.layers["unet"])
        self.layers["unet"].end()
        return predicted

    def _predicted(self, inputs: Encodings, layers: Layers) -> Tensor:
        """What the UNet answers, [rows, channels, height, width] in float32."""
        if self.family.text_encoders:
            inputs = {**inputs, **self._with_constants(self.family.embed(inputs))}
        layers.begin(inputs)
        predicted: Tensor = self.unet(
            inputs["noisy"].to(self.unet.dtype),
            inputs["times"],
            inputs["text"],
            added_cond_kwargs=self.family.conditioning(inputs, inputs["time_ids"]),
            return_dict=False,
        )[0]
        return predicted.float()

    def answer(self, inputs: Encodings) -> Tensor:
        with ExitStack() as stack:
            for layers in self.layers.values():
                stack.enter_context(layers.off())
            return self.predict(inputs)

    def adapter(self) -> Adapter:
        a: dict[str, Tensor] = {}
        b: dict[str, Tensor] = {}
        for name, layers in self.layers.items():
            part = renamed(layers.adapter(), {own: module for module, own in self.names[name].items()})
            a, b = {**a, **part.a}, {**b, **part.b}
        return Adapter(a, b, part.scale)

    def views(self, tensors: Sequence[Tensor]) -> tuple[Matrices, Matrices]:
        a: dict[str, Tensor] = {}
        b: dict[str, Tensor] = {}
        rest = iter(tensors)
        for name, layers in self.layers.items():
            modules = {own: module for module, own in self.names[name].items()}
            downs, ups = layers.views(list(islice(rest, len(layers.parameters))))
            a |= {modules[own]: value for own, value in downs.items()}
            b |= {modules[own]: value for own, value in ups.items()}
        return a, b

    @contextmanager
    def paused(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.family.shift(self.frozen)
            self._install()


def to_device(value: Tensor) -> Tensor:
    """Copies a tensor to the device from pinned memory, which avoids host-device synchronisation."""
    return value.pin_memory().to(device(), non_blocking=True) if device().type == "cuda" else value.to(device())


def min_snr(snr: Tensor, gamma: float, epsilon: bool) -> Tensor:
    """Min-SNR weights (arXiv 2303.09556, eq. 10 and section 3.4) of the error in what the model predicts.

    The paper weights the error in the clean picture by min(snr, gamma), which is the error in the noise weighted by
    min(snr, gamma) / snr, and that in the velocity weighted by min(snr, gamma) / (snr + 1). At snr 0 (the last step of
    schedules with zero terminal SNR) the weight of the noise tends to 1.

    Args:
        snr: signal-to-noise ratios, any shape.
        gamma: the limit; 5 in the paper.
        epsilon: whether the model predicts noise; otherwise velocity.
    """
    least = snr.clamp(max=gamma)
    return torch.where(snr > 0, least / snr.clamp(min=1e-30), 1.0) if epsilon else least / (snr + 1)
