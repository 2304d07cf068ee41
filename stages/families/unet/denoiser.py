"""Sampling at the speed of the model's own arithmetic: what can be computed once is, what need not be computed is not.

The pictures are those of diffusers' pipeline, to the rounding of floats. What is left out is exact:

- Keys and values of the prompt are computed once for a batch, not at every step.
- The empty prompt of SDXL is zeros, and its keys and values have no bias: they are zero, so is the attention to them,
  and what comes out is the bias of the output projection. The unconditional half skips its cross attention.
- Latents stay in float32 between steps, whatever number format the model computes in.
- On a GPU a batch is decoded and copied on a stream of its own while the next one is denoised.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from stages.families.unet.prompts import PromptAttention, Prompts, is_plain
from stages.runtime.faults import InputFault, MachineFault

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

SCHEDULERS = {"euler": "EulerDiscreteScheduler", "dpmpp": "DPMSolverMultistepScheduler"}  # ours: that of diffusers
DECODED_AT_ONCE = 1 << 20  # pixels: one picture of SDXL fills a GPU, and needs gigabytes


@dataclass(frozen=True)
class Settings:
    steps: int
    guidance: float
    scheduler: str


@dataclass(frozen=True)
class Batch:
    """Everything that one batch needs, on the device and in the model's number format.

    With guidance above 1 the unconditional half comes first: `text` and `extra` have 2n rows. `distinct` are the texts
    that cross attention reads, `rows` which of them each row has after the first `blank` ones, whose text is zeros.
    """

    noise: Tensor
    text: Tensor
    extra: Mapping[str, Tensor]
    distinct: Tensor
    rows: Tensor
    blank: int
    scheduler: Any
    guidance: float


class Denoiser:
    """Makes pictures with a UNet, in the state that it is in, and an autoencoder.

    Args:
        schedule: the configuration of the base's own scheduler.
        compiled: the UNet through torch.compile: once for each shape of batch and never again for a state, because
            states are swapped within the same storage.
        decoding: the number format of the decoder.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        schedule: Mapping[str, Any],
        compiled: bool = False,
        decoding: torch.dtype = torch.float32,
    ) -> None:
        self.unet, self.schedule = unet, schedule
        self.stand_ins: dict[str, PromptAttention] = {}
        self.model: Callable[..., Any] = compile_once(unet) if compiled else unet
        # Training encodes with the autoencoder as it is, so that another number format is a copy.
        self.vae: Any = vae if decoding == vae.dtype else copy.deepcopy(vae).to(decoding)

    def pictures(self, prompts: Prompts, noise: Tensor, settings: Settings, batch: int) -> list[Image.Image]:
        """One picture per row of `noise` [n, channels, height, width], float32, `batch` of them at a time.

        Raises:
            InputFault: numbers have left the range of a half-precision format.
        """
        self.vae.to(self.unet.device)  # training may have sent it away
        parts = [slice(at, at + batch) for at in range(0, len(noise), batch)]
        # All that is copied to the device is copied before the first step: a copy waits for the steps before it.
        batches = [self.prepare(prompts.part(rows), noise[rows], settings) for rows in parts]
        waiting = [self._decoded_aside(self.latents(ready)) for ready in batches]
        return [image for collect in waiting for image in collect()]

    def prepare(self, prompts: Prompts, noise: Tensor, settings: Settings) -> Batch:
        guided, zeros = settings.guidance > 1, prompts.empty_text is None
        text, extra, (distinct, rows) = prompts.text, dict(prompts.extra), prompts.distinct()
        if guided:
            empty = torch.zeros_like(text[0]) if prompts.empty_text is None else prompts.empty_text
            text = torch.cat([empty.expand_as(text), text])
            extra = {key: torch.cat([prompts.empty_extra[key], value]) for key, value in extra.items()}
            if not zeros:
                distinct = torch.cat([empty[None], distinct])
                rows = [0] * len(rows) + [row + 1 for row in rows]
        place, dtype = self.unet.device, self.unet.dtype
        scheduler = _scheduler(settings.scheduler, self.schedule)
        scheduler.set_timesteps(settings.steps, device=place)
        scheduler.set_begin_index(0)  # otherwise it looks for the first step on the device, and waits for the answer
        return Batch(
            noise.to(place, torch.float32),
            text.to(place, dtype),
            {key: value.to(place, dtype) for key, value in extra.items()},
            distinct.to(place, dtype),
            torch.tensor(rows).to(place),
            len(noise) if guided and zeros else 0,
            scheduler,
            settings.guidance,
        )

    def latents(self, batch: Batch) -> Tensor:
        """What the noise becomes, float32 of the same shape."""
        scheduler, guided = batch.scheduler, batch.guidance > 1
        x: Tensor = batch.noise * scheduler.init_noise_sigma
        with self._prompts_set(batch):
            for t in scheduler.timesteps:
                seen = scheduler.scale_model_input(x, t).to(self.unet.dtype).repeat(1 + guided, 1, 1, 1)
                predicted = self.model(seen, t, batch.text, added_cond_kwargs=batch.extra, return_dict=False)[0].float()
                if guided:
                    blank, prompted = predicted.chunk(2)
                    predicted = blank + batch.guidance * (prompted - blank)
                x = scheduler.step(predicted, t, x, return_dict=False)[0]
        return x

    @contextmanager
    def _prompts_set(self, batch: Batch) -> Iterator[None]:
        """Within it the UNet's cross attentions know their keys and values."""
        own: list[tuple[Any, Any]] = []
        try:
            for name, attention in _attentions(self.unet):
                if is_plain(attention):
                    stand_in = self.stand_ins.setdefault(name, PromptAttention())
                    stand_in.set_prompts(attention, batch.distinct, batch.rows, batch.blank)
                    own.append((attention, attention.processor))
                    attention.set_processor(stand_in)
            yield
        finally:
            for attention, processor in own:
                attention.processor.forget()
                attention.set_processor(processor)

    @cached_property
    def _aside(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def _pixels(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes [n, height, width, 3], and whether all was finite before it was rounded."""
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        each = max(1, DECODED_AT_ONCE // (latents[0, 0].numel() * scale**2))
        shown, finite = [], []
        for at in range(0, len(latents), each):
            decoded = self.vae.decode(
                (latents[at : at + each] / self.vae.config.scaling_factor).to(self.vae.dtype)
            ).sample.float()
            finite.append(decoded.isfinite().all())
            ranged = (decoded / 2 + 0.5).nan_to_num(0.0).clamp(0, 1)
            shown.append((ranged * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous())
        return torch.cat(shown), torch.stack(finite).all()

    def _decoded_aside(self, latents: Tensor) -> Callable[[], list[Image.Image]]:
        """Begins to decode; what comes back waits for the pictures."""
        if latents.device.type != "cuda":
            decoded = self._pixels(latents)
            return lambda: self._images(*decoded)
        self._aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._aside):
            latents.record_stream(self._aside)
            pixels, finite = (
                torch.empty(made.shape, dtype=made.dtype, pin_memory=True).copy_(made, non_blocking=True)
                for made in self._pixels(latents)
            )
            done = self._aside.record_event()

        def collect() -> list[Image.Image]:
            done.synchronize()
            return self._images(pixels, finite)

        return collect

    def _images(self, pixels: Tensor, finite: Tensor) -> list[Image.Image]:
        halves = {str(dtype).removeprefix("torch.") for dtype in (self.unet.dtype, self.vae.dtype)} - {"float32"}
        if halves and not bool(finite):
            raise InputFault(
                f"pictures came out as no numbers in {' and '.join(sorted(halves))}. "
                "Set base.options.dtype to bfloat16 or float32, and the decoder's to float32."
            )
        return [Image.fromarray(picture) for picture in pixels.numpy()]


def compile_once(unet: UNet2DConditionModel) -> Callable[..., Any]:
    """The UNet through torch.compile, which needs compilers of its own: Triton's on a GPU, one of C++ on a CPU.

    Raises:
        MachineFault: when it is called: it cannot be compiled here.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    compiled = torch.compile(unet, dynamic=False)

    def call(*args: Any, **options: Any) -> Any:
        try:
            return compiled(*args, **options)  # type: ignore[no-untyped-call]
        except BackendCompilerFailed as error:
            reason = str(error.inner_exception).splitlines()[0]
            raise MachineFault(f"torch.compile fails here: {reason}. Set base.options.compile to false.") from None

    return call


def _attentions(unet: nn.Module) -> Iterator[tuple[str, Any]]:
    from diffusers.models.attention_processor import Attention

    return ((name, part) for name, part in unet.named_modules() if isinstance(part, Attention))


def _scheduler(name: str, config: Mapping[str, Any]) -> Any:
    import diffusers

    return getattr(diffusers, SCHEDULERS[name]).from_config(config)
