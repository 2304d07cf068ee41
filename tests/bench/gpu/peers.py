"""SDXL trained and sampled by others, for benchmarks.

They are the paper's published loop, diffusers' script at its best, and the ways of kohya's sd-scripts and SimpleTuner.

Loops of the last two are written after train_network.py and networks/lora.py of the one, and helpers/training of the
other, as far as they take time in a step: both store latents and prompts, compute in bfloat16 and read the loss at
every step. All train the same matrices of the same UNet, that of diffusers with torch's attention (kohya's own copy of
it has the same layers), and none of these two recomputes activations, which both may do to save memory. In place of a
stored latent each step draws one from the stored posterior, so that losses can be compared; that costs two operations.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stages.adapters.algebra import Adapter
from stages.runtime.device import device
from stages.runtime.seeds import generator
from tests.bench.gpu.random_sdxl import encode

THREADS = torch.get_num_threads()  # torch's default, before the project sets it to one
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
LEARNING_RATE = 1e-4  # ten times the paper's, so that a step shows in the next one's loss


@dataclass(frozen=True)
class Way:
    """How a peer runs the model."""

    dtype: torch.dtype
    batch: int = 1
    checkpointing: bool = False
    fused: bool = False  # AdamW
    tf32: bool = False  # in matrix products; in convolutions it is torch's default
    cached: bool = False  # the picture is encoded once
    compiled: bool = False  # each transformer block in training, the whole UNet in sampling; in the default mode
    patched: bool = False  # LoRA by a new forward of each matrix, as kohya's, and not by layers of peft
    rounded: bool = False  # adapter and AdamW in bfloat16 with stochastic rounding, as SimpleTuner's adamw_bf16


REFERENCE = Way(torch.float32, batch=5, checkpointing=True)
BEST = Way(torch.bfloat16, batch=8, fused=True, tf32=True)
CACHED = Way(torch.bfloat16, fused=True, tf32=True, cached=True)
KOHYA = Way(torch.bfloat16, cached=True, patched=True)  # its 8-bit AdamW is replaced by torch's
SIMPLE_TUNER = Way(torch.bfloat16, tf32=True, cached=True, rounded=True)
COMPILED = Way(torch.bfloat16, batch=8, fused=True, tf32=True, cached=True, compiled=True)


@contextmanager
def torch_defaults(way: Way) -> Iterator[None]:
    """Restores torch's defaults within the block, since the project's settings for reproducibility may slow a peer.

    The size of cuBLAS's workspace stays: on Hopper the project's setting is torch's default.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = torch.get_deterministic_debug_mode(), matmul.allow_tf32, cudnn.allow_tf32, torch.get_num_threads()
    torch.set_deterministic_debug_mode("default")
    matmul.allow_tf32, cudnn.allow_tf32 = way.tf32, True
    if device().type == "cuda":  # on a CPU all peers have one thread
        torch.set_num_threads(THREADS)
    try:
        with _autotuning() if way.compiled else nullcontext():
            yield
    finally:
        mode, matmul.allow_tf32, cudnn.allow_tf32, threads = before
        torch.set_deterministic_debug_mode(mode)
        torch.set_num_threads(threads)


def _autotuning() -> Any:
    from torch._inductor import config

    return config.patch(deterministic=False) if hasattr(config, "deterministic") else nullcontext()


def copy_of(model: Any, dtype: torch.dtype) -> Any:
    """A copy of a model on the device, in torch's usual memory format."""
    return copy.deepcopy(model).to(device(), dtype).to(memory_format=torch.contiguous_format)


def pipeline(own: Any, way: Way) -> Any:
    """A diffusers pipeline with a copy of the same weights."""
    parts = dict(own.components) | {name: copy_of(getattr(own, name), way.dtype) for name in PARTS}
    result = type(own)(**parts, add_watermarker=False)
    result.set_progress_bar_config(disable=True)
    if way.dtype != torch.float32:
        result.unet.to(memory_format=torch.channels_last)
        result.unet.fuse_qkv_projections()
    if way.compiled:
        result.unet.compile(dynamic=False)
    return result


def images(pipeline: Any, prompts: list[str], noise: Tensor, steps: int, batch: int) -> list[Image.Image]:
    """Calls the pipeline with `batch` pictures at a time, encoding the prompts each time."""
    pictures: list[Image.Image] = []
    height, width = (side * pipeline.vae_scale_factor for side in noise.shape[-2:])
    for at in range(0, len(prompts), batch):
        encodings = {
            k: v.to(pipeline.unet.device, pipeline.unet.dtype)
            for k, v in encode(pipeline, prompts[at : at + batch]).items()
        }
        pictures += pipeline(
            prompt_embeds=encodings["text"],
            pooled_prompt_embeds=encodings["pooled"],
            negative_prompt_embeds=torch.zeros_like(encodings["text"]),
            negative_pooled_prompt_embeds=torch.zeros_like(encodings["pooled"]),
            latents=noise[at : at + batch].to(pipeline.unet.device, pipeline.unet.dtype),
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=5.0,
        ).images
    return pictures


class Patch(nn.Module):
    """LoRA as kohya's LoRAModule: it takes the place of a layer's forward, and calls that."""

    def __init__(self, layer: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.down, self.up = (nn.Linear(*matrix.shape[::-1], bias=False, device=device()) for matrix in (a, b))
        self.down.weight.data, self.up.weight.data = (
            matrix.to(device(), torch.float32, copy=True) for matrix in (a, b)
        )
        self.multiplier, self.scale, self.original = 1.0, scale, layer.forward
        layer.forward = self.forward  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.original(x) + self.up(self.down(x)) * self.multiplier * self.scale
        return y


class RoundedAdamW(torch.optim.Optimizer):
    """AdamW on bfloat16 parameters as SimpleTuner's default, tensor by tensor: stochastic rounding, and one more tensor
    that holds what rounding has lost. Weight decay is 0, its default."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        beta, gamma = 0.9, 0.999
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                state |= {name: torch.zeros_like(parameter) for name in ("mean", "square", "lost")} | {"step": 0}
            state["step"] += 1
            mean, square, lost = state["mean"], state["square"], state["lost"]
            rounded(mean, mean.float() * beta + (1 - beta) * parameter.grad)
            square.mul_(gamma).addcmul_(parameter.grad, parameter.grad, value=1 - gamma)
            rate = self.param_groups[0]["lr"] * (1 - gamma ** state["step"]) ** 0.5
            rounded(lost, lost.float().addcdiv_(mean, square.sqrt().add_(1e-8), value=-rate))
            before = parameter.clone()
            rounded(parameter, parameter.float() + lost)
            rounded(lost, lost.float() + before.sub_(parameter))


def rounded(target: Tensor, exact: Tensor) -> None:
    """Copies float32 to bfloat16, up or down by chance, so that the mean is exact."""
    bits = torch.randint_like(exact, 1 << 16, dtype=torch.int32).add_(exact.view(torch.int32)).bitwise_and_(-(1 << 16))
    target.copy_(bits.view(torch.float32))


class Loop:
    """LoRA on the attention; the picture encoded and the loss read at every step; AdamW and clipping.

    UNet and autoencoder are copies, because our training moves parts off the device. The autoencoder computes in
    float32, as in diffusers' script.
    """

    def __init__(self, own: Any, pixels: Tensor, prompt: dict[str, Tensor], adapter: Adapter, way: Way) -> None:
        from diffusers import DDPMScheduler

        self.way, self.pixels = way, pixels.to(device())
        self.unet, self.vae = copy_of(own.unet, way.dtype), copy_of(own.vae, torch.float32)
        self.parameters = self._patched(adapter) if way.patched else self._with_peft(adapter)
        if way.checkpointing:
            self.unet.enable_gradient_checkpointing()
        if way.compiled:
            self.unet.compile_repeated_blocks(dynamic=False)
        self.unet.train()
        self.optimiser: torch.optim.Optimizer = (
            RoundedAdamW(self.parameters, {"lr": LEARNING_RATE})
            if way.rounded
            else torch.optim.AdamW(self.parameters, LEARNING_RATE, weight_decay=1e-4, fused=way.fused)
        )
        self.schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        side = float(pixels.shape[-1])
        ids = torch.tensor([[side, side, 0, 0, side, side]], device=device())
        self.extra = {"text_embeds": prompt["pooled"].to(device(), way.dtype), "time_ids": ids}
        self.text = prompt["text"].to(device(), way.dtype)
        self.cached = self._encode() if way.cached else None

    def _patched(self, adapter: Adapter) -> list[nn.Parameter]:
        """Starts from this adapter, in float32; returns its matrices."""
        modules = {name: self.unet.get_submodule(name) for name in sorted(adapter.a)}
        self.lora = [Patch(modules[name], adapter.a[name], adapter.b[name], adapter.scale) for name in modules]
        return [parameter for patch in self.lora for parameter in patch.parameters()]

    def _with_peft(self, adapter: Adapter) -> list[nn.Parameter]:
        """Starts from this adapter, in float32 unless it is rounded; returns its matrices."""
        from peft import LoraConfig

        rank, names = next(iter(adapter.a.values())).shape[0], sorted(adapter.a)
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=adapter.scale * rank, target_modules=names))
        for factor, matrices in (("lora_A", adapter.a), ("lora_B", adapter.b)):
            for name in names:
                weight = getattr(self.unet.get_submodule(name), factor)["default"].weight
                dtype = torch.bfloat16 if self.way.rounded else torch.float32
                weight.data = matrices[name].to(device(), dtype, copy=True)
        return [parameter for parameter in self.unet.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def _encode(self) -> Any:
        return self.vae.encode(self.pixels).latent_dist

    def step(self, g: torch.Generator | None = None) -> tuple[float, Tensor]:
        """Takes a step.

        Args:
            g: draws the random numbers on the CPU, as the project does; None: they are drawn on the device.

        Returns:
            The loss, and the norm of the gradient.
        """
        place = torch.device("cpu") if g else device()
        posterior = self.cached or self._encode()
        mean = posterior.mean
        drawn, noise = (torch.randn(mean.shape, generator=g, device=place).to(mean.device) for _ in range(2))
        time = torch.randint(0, 1000, (len(mean),), generator=g, device=place).to(mean.device)
        clean = ((mean + posterior.std * drawn) * self.vae.config.scaling_factor).to(self.way.dtype)
        noise = noise.to(self.way.dtype)
        noisy = self.schedule.add_noise(clean, noise, time)
        with torch.autocast(mean.device.type, self.way.dtype, enabled=self.way.dtype != torch.float32):
            predicted = self.unet(noisy, time, self.text, added_cond_kwargs=self.extra).sample
        loss = F.mse_loss(predicted.float(), noise.float())
        loss.backward()
        norm: Tensor = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.item(), norm

    def curve(self, seeds: Sequence[int]) -> list[tuple[float, float]]:
        """Loss and gradient norm of one step per seed, with the project's settings unless something is compiled."""
        with torch_defaults(self.way) if self.way.compiled else nullcontext():
            return [(loss, float(norm)) for loss, norm in (self.step(generator(seed)) for seed in seeds)]

    def steps(self, count: int) -> None:
        with torch_defaults(self.way):
            for _ in range(count):
                self.step()
