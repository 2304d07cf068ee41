"""A UNet in training: its loss with LoRA in the attention, on encodings made beforehand.

Where adapters shift the text encoders too, prompts come as tokens and are encoded in every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from stages.adapters.algebra import Adapter, Delta
from stages.core.family import Encodings, Learner, Row, Teaching
from stages.families.unet.layers import Grouped, Layers, PerMatrix
from stages.families.unet.names import part_of
from stages.families.unet.text_encoders import own_name, renamed
from stages.runtime.device import device
from stages.runtime.seeds import generator

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DConditionModel

LAYERS: dict[str, type[Layers]] = {"grouped": Grouped, "peft": PerMatrix}
# In float16 the gradient of a mean over a latent's numbers is too small for its exponent.
MAGNIFY = {torch.float16: 2.0**12}


class Trained(Protocol):
    """What a learner needs of the family that it trains: see `UNetFamily`."""

    @property
    def pipeline(self) -> Any: ...

    @property
    def shifted(self) -> tuple[str, ...]: ...

    @property
    def text_encoders(self) -> bool: ...

    def shift(self, delta: Delta) -> None: ...

    def only_on_device(self, *parts: str) -> None: ...

    def embed(self, numbers: Encodings) -> dict[str, Tensor]: ...

    def time_ids(self, count: int) -> Tensor: ...

    def conditioning(self, encodings: Encodings, time_ids: Tensor) -> dict[str, Tensor]: ...


class UNetLearner(Learner):
    """The frozen weights in the family's number format, the adapter in float32."""

    def __init__(self, family: Trained, frozen: Delta, adapter: Adapter, options: Teaching) -> None:
        from diffusers import DDPMScheduler

        self.family, self.frozen, self.options = family, frozen, options
        self.unet: UNet2DConditionModel = family.pipeline.unet
        family.only_on_device(*family.shifted)
        family.shift(frozen)
        self.names, self.layers = self._divided(adapter)
        self.schedule: DDPMScheduler = DDPMScheduler.from_config(family.pipeline.scheduler.config)
        self.magnify = MAGNIFY.get(self.unet.dtype, 1.0)
        self._install()

    def _divided(self, adapter: Adapter) -> tuple[dict[str, dict[str, str]], dict[str, Layers]]:
        """By part of the pipeline: what its modules are called there, and its share of the adapter."""
        names: dict[str, dict[str, str]] = {}
        layers: dict[str, Layers] = {}
        for name in self.family.shifted:
            model = getattr(self.family.pipeline, name)
            names[name] = {module: own_name(model, module) for module in adapter.a if part_of(module)[0] == name}
            kind = LAYERS[self.options.layers] if name == "unet" else PerMatrix
            layers[name] = kind(model, renamed(adapter, names[name]))
        return names, layers

    def _install(self) -> None:
        for layers in self.layers.values():
            layers.install()
        if self.options.checkpointing:
            self.unet.enable_gradient_checkpointing()
        else:
            self.unet.disable_gradient_checkpointing()
        self.unet.train()

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for layers in self.layers.values() for parameter in layers.parameters]

    @torch.no_grad()
    def study(self, images: Sequence[Encodings], prompts: Encodings) -> None:
        self.images, self.prompts = images, {name: value.to(device()) for name, value in prompts.items()}
        if not self.family.text_encoders:
            self.prompts = self._with_constants(
                {name: value.to(self.unet.dtype) for name, value in self.prompts.items()}
            )

    def _with_constants(self, embedded: Encodings) -> dict[str, Tensor]:
        return {**embedded, **self.layers["unet"].constants(embedded["text"])}

    def inputs(self, rows: Sequence[Row]) -> Encodings:
        """Latents, noise and times of SDXL's training (epsilon, or velocity where the scheduler says so)."""
        drawn = [self._draw(row) for row in rows]
        clean, noise, times = (torch.stack(values) for values in zip(*drawn, strict=True))
        clean = clean * self.family.pipeline.vae.config.scaling_factor
        epsilon = self.schedule.config.prediction_type == "epsilon"
        weight = torch.tensor([row.weight for row in rows])
        if self.options.snr_gamma is not None:
            weight = weight * min_snr(self._snr()[times], self.options.snr_gamma, epsilon)
        frames = [self.images[row.image].get("frame", self.family.time_ids(1).cpu()) for row in rows]
        made = {
            "noisy": self.schedule.add_noise(clean, noise, times),
            "wanted": noise if epsilon else self.schedule.get_velocity(clean, noise, times),
            "times": times,
            "weight": weight,
            "time_ids": torch.cat(frames).float(),
        }
        # Stacked and not indexed by a list, which would be copied to the device and waited for.
        text = {name: torch.stack([value[row.prompt] for row in rows]) for name, value in self.prompts.items()}
        return {name: sent(value) for name, value in made.items()} | text

    def _draw(self, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        """A latent from the posterior of the picture, its noise and its time, all from the row's seed."""
        g = generator(row.seed)
        mean, std = self.images[row.image]["moments"][0]
        latent = mean + std * torch.randn(mean.shape, generator=g)
        noise = torch.randn(mean.shape, generator=g)
        return latent, noise, torch.randint(self.schedule.config.num_train_timesteps, (), generator=g)

    def _snr(self) -> Tensor:
        """The signal-to-noise ratio at each time."""
        signal: Tensor = self.schedule.alphas_cumprod
        return signal / (1 - signal)

    def loss(self, inputs: Encodings) -> Tensor:
        """The weighted sum of each row's mean squared error."""
        if self.family.text_encoders:
            inputs = {**inputs, **self._with_constants(self.family.embed(inputs))}
        self.layers["unet"].begin(inputs)
        found = self.unet(
            inputs["noisy"].to(self.unet.dtype),
            inputs["times"],
            inputs["text"],
            added_cond_kwargs=self.family.conditioning(inputs, inputs["time_ids"]),
            return_dict=False,
        )[0]
        if not self.options.checkpointing:
            self.layers["unet"].end()
        errors = nn.functional.mse_loss(found.float(), inputs["wanted"], reduction="none").mean((1, 2, 3))
        return (errors * inputs["weight"]).sum()

    def adapter(self) -> Adapter:
        a: dict[str, Tensor] = {}
        b: dict[str, Tensor] = {}
        for name, layers in self.layers.items():
            found = renamed(layers.adapter(), {own: module for module, own in self.names[name].items()})
            a, b = {**a, **found.a}, {**b, **found.b}
        return Adapter(a, b, found.scale)

    @contextmanager
    def aside(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.family.shift(self.frozen)
            self._install()


def sent(value: Tensor) -> Tensor:
    """On the device, without waiting for what it does at the moment: from memory that stays where it is."""
    return value.pin_memory().to(device(), non_blocking=True) if device().type == "cuda" else value.to(device())


def min_snr(snr: Tensor, gamma: float, epsilon: bool) -> Tensor:
    """Min-SNR weights (arXiv 2303.09556, eq. 10 and section 3.4) of the error in what the model predicts.

    The paper weights the error in the clean picture by min(snr, gamma), which is that in the noise by
    min(snr, gamma) / snr and that in the velocity by min(snr, gamma) / (snr + 1). Where nothing of the picture is left
    (snr 0, as in schedules of zero terminal signal) the first of them tends to 1.
    """
    least = snr.clamp(max=gamma)
    return torch.where(snr > 0, least / snr.clamp(min=1e-30), 1.0) if epsilon else least / (snr + 1)
