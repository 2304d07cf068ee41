"""Fast sampling: what stays the same is computed once, and what is known in advance is not computed at all.

The pictures are those of diffusers' pipeline, up to the rounding of floats:

- Keys and values of the prompt are computed once per batch, not at every step.
- SDXL's empty prompt is zeros, and its keys and values have no bias: both are zero, and so is the attention to them.
  The output is the bias of the output projection, so the unconditional half skips its cross attention.
- Latents stay in float32 between steps, whatever number format the model computes in.
- Where guidance ends before the last step, as an option, the unconditional half ends with it.
- On a GPU a batch is decoded and copied on its own stream while the next one is denoised.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from torch import Tensor

from stages.families.unet.compiled.blocks import compile_once, compiled_blocks
from stages.families.unet.lora.groups import attentions_of
from stages.families.unet.pipeline import signal_at
from stages.families.unet.prompts import PromptAttention, Prompts, is_plain
from stages.runtime.faults import InputFault

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

SCHEDULERS = {"euler": "EulerDiscreteScheduler", "dpmpp": "DPMSolverMultistepScheduler"}  # our name: diffusers' class
DECODED_AT_ONCE = 1 << 20  # pixels: decoding one picture of SDXL fills a GPU and needs gigabytes


@dataclass(frozen=True)
class Settings:
    """How pictures are sampled."""

    steps: int
    guidance: float
    scheduler: str  # a key of SCHEDULERS
    guided: float = 1.0  # share of the steps with guidance: the first ones, at least one (cf. arXiv 2404.07724)

    @property
    def guided_steps(self) -> int:
        return 0 if self.guidance <= 1 else max(1, round(self.guided * self.steps))


@dataclass(frozen=True)
class Batch:
    """The inputs of one batch of n pictures, on the device and in the model's number format.

    With guidance above 1 the unconditional half comes first: `text` and `extra` have 2n rows. Cross attention reads the
    texts in `distinct`; the text of the first `blank` rows is zeros, and `rows` is the index into `distinct` of each
    row after them.
    """

    noise: Tensor
    text: Tensor
    extra: Mapping[str, Tensor]
    distinct: Tensor
    rows: Tensor
    blank: int
    scheduler: Any
    guidance: float
    guided_steps: int  # at whose end the unconditional half ends

    @property
    def prompted(self) -> Batch:
        """Without the unconditional half."""
        n = len(self.noise)
        return replace(self, text=self.text[-n:], extra={k: v[-n:] for k, v in self.extra.items()}, guidance=1.0)


class Denoiser:
    """Samples pictures with a UNet, at its current weights, and an autoencoder.

    Args:
        unet: predicts noise or velocity.
        vae: decodes latents.
        schedule: the configuration of the base's own scheduler.
        compiled: whether to use torch.compile; "blocks": only for repeated blocks. Once per batch shape, and not again
            for another state, because states are swapped within the same storage.
        decoding: the number format of the decoder.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        schedule: Mapping[str, Any],
        compiled: bool | Literal["blocks"] = False,
        decoding: torch.dtype = torch.float32,
    ) -> None:
        self.unet, self.schedule = unet, schedule
        self.prompt_attentions: dict[str, PromptAttention] = {}
        self.model: Callable[..., Any] = compile_once(unet) if compiled is True else unet
        self.compiled = bool(compiled)
        # Training encodes with the autoencoder as it is, so another number format needs a copy.
        self.vae: Any = vae if decoding == vae.dtype else copy.deepcopy(vae).to(decoding)
        # torch's own kernel of a group norm leaves most of a GPU idle where one picture is decoded at a time.
        self.compiled_decoder = self.compiled and unet.device.type == "cuda"
        if self.compiled_decoder:
            self.vae.decoder.to(memory_format=torch.channels_last)

    def pictures(self, prompts: Prompts, noise: Tensor, settings: Settings, batch: int) -> list[Image.Image]:
        """Samples one picture per row of noise.

        Args:
            prompts: of n pictures.
            noise: [n, channels, height, width], float32.
            settings: of the sampler.
            batch: pictures at a time.

        Raises:
            InputFault: a half-precision format overflowed.
        """
        self.vae.to(self.unet.device)  # training may have moved it away
        parts = [slice(at, at + batch) for at in range(0, len(noise), batch)]
        # All inputs are copied to the device before the first step: a copy waits for the steps before it.
        batches = [self.prepare(prompts.part(rows), noise[rows], settings) for rows in parts]
        decodings = [self._start_decoding(self.latents(ready)) for ready in batches]
        return [image for collect in decodings for image in collect()]

    def prepare(self, prompts: Prompts, noise: Tensor, settings: Settings) -> Batch:
        """Copies the inputs of n pictures to the device, with the unconditional half if there is guidance."""
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
        scheduler = _scheduler(settings, self.schedule, place)
        return Batch(
            noise.to(place, torch.float32),
            text.to(place, dtype),
            {key: value.to(place, dtype) for key, value in extra.items()},
            distinct.to(place, dtype),
            torch.tensor(rows).to(place),
            len(noise) if guided and zeros else 0,
            scheduler,
            settings.guidance,
            settings.guided_steps,
        )

    def latents(self, batch: Batch) -> Tensor:
        """Denoises a batch.

        Returns:
            Latents [n, channels, height, width], float32.
        """
        x: Tensor = batch.noise * batch.scheduler.init_noise_sigma
        blocks = compiled_blocks(self.unet) if self.compiled else nullcontext()
        with blocks, self._fixed_prompts(batch) as processors:
            for step, t in enumerate(batch.scheduler.timesteps):
                if batch.guidance > 1 and step == batch.guided_steps:
                    batch = batch.prompted
                    for processor in processors:
                        processor.end_guidance(len(x))
                x = self._denoised(batch, x, t)
        return x

    def _denoised(self, batch: Batch, x: Tensor, t: Tensor) -> Tensor:
        """The latents after one step."""
        scheduler, guided = batch.scheduler, batch.guidance > 1
        x_in = scheduler.scale_model_input(x, t).to(self.unet.dtype).repeat(1 + guided, 1, 1, 1)
        predicted = self.model(x_in, t, batch.text, added_cond_kwargs=batch.extra, return_dict=False)[0].float()
        if guided:
            unconditional, prompted = predicted.chunk(2)
            predicted = unconditional + batch.guidance * (prompted - unconditional)
        after: Tensor = scheduler.step(predicted, t, x, return_dict=False)[0]
        return after

    @contextmanager
    def _fixed_prompts(self, batch: Batch) -> Iterator[list[PromptAttention]]:
        """Within the block the UNet's cross attentions use precomputed keys and values."""
        replaced: list[tuple[Any, Any]] = []
        try:
            for name, attention in attentions_of(self.unet).items():
                if is_plain(attention):
                    processor = self.prompt_attentions.setdefault(name, PromptAttention())
                    processor.set_prompts(attention, batch.distinct, batch.rows, batch.blank)
                    replaced.append((attention, attention.processor))
                    attention.set_processor(processor)
            yield [attention.processor for attention, _ in replaced]
        finally:
            for attention, original in replaced:
                attention.processor.clear()
                attention.set_processor(original)

    @cached_property
    def _decode_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def pixels(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Decodes latents to bytes [n, height, width, 3], and whether all were finite before rounding."""
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        each = max(1, DECODED_AT_ONCE // (latents[0, 0].numel() * scale**2))
        pixels, finite = [], []
        with compiled_blocks(self.vae.decoder) if self.compiled_decoder else nullcontext():
            for at in range(0, len(latents), each):
                scaled = (latents[at : at + each] / self.vae.config.scaling_factor).to(self.vae.dtype)
                decoded = self.vae.decode(scaled).sample.float()
                finite.append(decoded.isfinite().all())
                ranged = (decoded / 2 + 0.5).nan_to_num(0.0).clamp(0, 1)
                pixels.append((ranged * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous())
        return torch.cat(pixels), torch.stack(finite).all()

    def _start_decoding(self, latents: Tensor) -> Callable[[], list[Image.Image]]:
        """Starts to decode on a side stream; the function that is returned waits for the pictures."""
        if latents.device.type != "cuda":
            decoded = self.pixels(latents)
            return lambda: self._images(*decoded)
        stream = self._decode_stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            latents.record_stream(stream)
            pixels, finite = (
                torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
                for value in self.pixels(latents)
            )
            done = stream.record_event()

        def collect() -> list[Image.Image]:
            done.synchronize()
            return self._images(pixels, finite)

        return collect

    def _images(self, pixels: Tensor, finite: Tensor) -> list[Image.Image]:
        formats = {str(dtype).removeprefix("torch.") for dtype in (self.unet.dtype, self.vae.dtype)} - {"float32"}
        if formats and not bool(finite):
            raise InputFault(
                f"base.options.dtype, decoder_dtype: pictures overflow in {' and '.join(sorted(formats))}. "
                "Set dtype to bfloat16 or float32, and decoder_dtype to float32."
            )
        return [Image.fromarray(picture) for picture in pixels.numpy()]


def _scheduler(settings: Settings, config: Mapping[str, Any], place: torch.device) -> Any:
    """The scheduler at its first step. It takes square roots of both tensors: in float32 they depend on the processor's
    vendor."""
    import diffusers

    scheduler = getattr(diffusers, SCHEDULERS[settings.scheduler]).from_config(config)
    least = scheduler.alphas_cumprod[-1].double()  # above zero, so that no sigma is infinite
    scheduler.alphas_cumprod = signal_at(scheduler).maximum(least)
    scheduler.set_timesteps(settings.steps, device=place)
    scheduler.sigmas = scheduler.sigmas.double()
    scheduler.set_begin_index(0)  # otherwise it searches for the first step on the device, which synchronises
    return scheduler
