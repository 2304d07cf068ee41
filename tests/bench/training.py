"""One training step against the plain loop: python -m tests.bench.training [--rounds 7] [--steps 3] [--width 32]

The model has SDXL's blocks (70 transformer blocks, 560 adapted matrices) at a hundredth of its width, with random
weights. Peers, all in float32 on one thread, from the same adapter and with the same random numbers:

  plain          the loop of diffusers' train_dreambooth_lora_sdxl: LoRA of peft, the prompt encoded once, the picture
                 encoded by the autoencoder at every step, loss.item(), clip_grad_norm_, AdamW, zero_grad
  checkpointing  the same with gradient checkpointing, as in the paper's code (AdamW in place of the 8-bit version)
  cached         plain, but with the autoencoder's output precomputed: shows the gain of all other parts
  ours           a step of `python -m stages.train`

Losses and gradients are compared before anything is timed. Blocks of steps alternate. Printed are the median CPU time
per step, the median of its ratio to ours with the range over rounds, and the same for wall time, which is unreliable on
a shared machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from stages.adapters.algebra import Adapter, fresh_adapter
from stages.core.family import Row
from stages.core.params import Train
from stages.families.sdxl import Sdxl
from stages.files.artifact import folder_digest
from stages.runtime.device import device
from stages.runtime.seeds import generator, seed
from stages.training.loop import READ_EVERY
from stages.training.step import Descent

BASE = Path("data/world/base")
DEPTHS = (1, 2, 10)  # transformer blocks of an attention at each level of SDXL
PIXELS, RANK, PROMPT = 128, 4, "a photo of a sks owl"
OPTIONS = Train(rank=RANK, alpha=RANK, steps=10**6, batch=1, learning_rate=1e-4, reinit="shared", checkpoint_every=500)


def write_model(folder: Path, width: int) -> Sdxl:
    """Writes SDXL's layers at small widths in diffusers format, with the embedded base's text encoders."""
    torch.manual_seed(0)
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"):
        shutil.copytree(BASE / part, folder / part)
    shutil.copy(BASE / "model_index.json", folder)
    text = UNet2DConditionModel.load_config(str(BASE / "unet"))
    UNet2DConditionModel(
        sample_size=PIXELS // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(width, 2 * width, 4 * width),
        transformer_layers_per_block=DEPTHS,
        attention_head_dim=(2, 4, 8),
        norm_num_groups=8,
        use_linear_projection=True,
        **{
            key: text[key]
            for key in (
                "cross_attention_dim",
                "addition_embed_type",
                "addition_time_embed_dim",
                "projection_class_embeddings_input_dim",
            )
        },
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(width // 4, width // 2, width, width),
        layers_per_block=2,
        norm_num_groups=4,
        scaling_factor=0.13025,
    ).save_pretrained(folder / "vae")
    return Sdxl(path=str(folder), revision=folder_digest(folder), pixels=PIXELS)


def any_picture() -> Image.Image:
    pixels = torch.randint(0, 256, (PIXELS, PIXELS, 3), generator=generator("picture"), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


class Plain:
    """The loop of diffusers' script."""

    def __init__(self, family: Sdxl, adapter: Adapter, picture: Image.Image, vae: bool, checkpointing: bool) -> None:
        self.family, self.vae = family, vae
        self.unet = UNet2DConditionModel.from_pretrained(f"{family.path}/unet").requires_grad_(False)
        names = sorted(adapter.a)
        self.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names, init_lora_weights="gaussian"))
        for name in names:
            for factor, value in (("lora_A", adapter.a[name]), ("lora_B", adapter.b[name])):
                self.unet.get_submodule(name).get_submodule(factor)["default"].weight.data.copy_(value)
        if checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.unet.train()
        self.parameters = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, OPTIONS.learning_rate, OPTIONS.betas, OPTIONS.epsilon, OPTIONS.weight_decay
        )
        self.schedule = DDPMScheduler.from_config(family.pipeline.scheduler.config)
        self.prompt = family.encode_prompts([PROMPT])
        self.pixels = family.pipeline.image_processor.preprocess(picture)
        with torch.no_grad():
            self.posterior = family.pipeline.vae.encode(self.pixels).latent_dist

    def __call__(self, step: int) -> float:
        g, vae = generator(seed("step", step)), self.family.pipeline.vae
        with torch.no_grad():
            posterior = vae.encode(self.pixels).latent_dist if self.vae else self.posterior
        drawn = posterior.mean + posterior.std * torch.randn(posterior.mean.shape[1:], generator=g)
        latents = drawn * vae.config.scaling_factor
        noise = torch.randn(latents.shape[1:], generator=g)[None]
        times = torch.randint(self.schedule.config.num_train_timesteps, (), generator=g)[None]
        extra = {"text_embeds": self.prompt["pooled"], "time_ids": self.family.time_ids(1)}
        noisy = self.schedule.add_noise(latents, noise, times)
        predicted = self.unet(noisy, times, self.prompt["text"], added_cond_kwargs=extra).sample
        target = self.schedule.get_velocity(latents, noise, times)
        loss = torch.nn.functional.mse_loss(predicted.float(), target.float())
        loss.backward()
        self.norm = torch.nn.utils.clip_grad_norm_(self.parameters, OPTIONS.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach().item())


class Ours:
    """A step as in `Training`."""

    def __init__(self, family: Sdxl, adapter: Adapter, picture: Image.Image) -> None:
        self.learner = family.learner(None, adapter, OPTIONS)
        self.learner.prepare([family.encode_images([picture])], family.encode_prompts([PROMPT]))
        self.descent = Descent(self.learner, OPTIONS, READ_EVERY)

    def __call__(self, step: int) -> None:
        self.descent.gradient(self.learner.inputs([Row(0, 0, seed("step", step), 1.0)]))
        self.descent.update(OPTIONS.learning_rate)
        if self.descent.full:
            self.descent.read()


class Operations(TorchDispatchMode):
    """Counts the operations that run a kernel: all but views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def check(peers: dict[str, Plain], ours: Ours, steps: int) -> None:
    """Compares losses and gradient norms of the first steps.

    Raises:
        SystemExit: they differ by more than a thousandth.
    """
    for step in range(steps):
        losses = {name: (peer(step), float(peer.norm)) for name, peer in peers.items()}
        ours(step)
        (mine,) = ours.descent.read()
        for name, (loss, norm) in losses.items():
            difference = max(abs(mine.loss / loss - 1), abs(mine.gradient_norm / norm - 1))
            if difference > 1e-3:
                sys.exit(f"step {step}: {name} {loss:.7f} {norm:.7f}, ours {mine.loss:.7f} {mine.gradient_norm:.7f}")
    print(f"{steps} steps agree: loss {mine.loss:.6f}, gradient {mine.gradient_norm:.6f}, to a thousandth or better")


def timed(run: Callable[[int], object], first: int, steps: int) -> tuple[float, float]:
    """CPU and wall milliseconds per step."""
    cpu, wall = time.process_time(), time.perf_counter()
    for step in range(first, first + steps):
        run(step)
    return (time.process_time() - cpu) * 1e3 / steps, (time.perf_counter() - wall) * 1e3 / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 7), ("steps", 3), ("width", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    print(f"torch {torch.__version__} on {device()}, {torch.get_num_threads()} thread")
    with tempfile.TemporaryDirectory() as folder:
        compare(write_model(Path(folder), args.width), args.rounds, args.steps)


def compare(family: Sdxl, rounds: int, steps: int) -> None:
    adapter = fresh_adapter(family.shapes(), RANK, RANK, generator("adapter"))
    adapter = Adapter(adapter.a, {n: 0.05 * torch.randn(b.shape, generator=generator(n)) for n, b in adapter.b.items()})
    picture = any_picture()
    kinds = {"plain": (True, False), "checkpointing": (True, True), "cached": (False, False)}
    peers = {name: Plain(family, adapter, picture, *kind) for name, kind in kinds.items()}
    ours = Ours(family, adapter, picture)
    print(f"{len(adapter.a)} matrices, {sum(p.numel() for p in family.pipeline.unet.parameters()) / 1e6:.1f} M weights")
    check(peers, ours, 3)
    runs: dict[str, Callable[[int], object]] = {**peers, "ours": ours}
    operations = {}
    for name, run in runs.items():
        with Operations() as counter:
            run(3)
        operations[name] = counter.count
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            times[name].append(timed(run, 4 + number * steps, steps))
    for name, measured in times.items():
        line = f"{name:14} {operations[name]:6} operations"
        for place, kind in enumerate(("CPU", "wall")):
            ratios = [theirs[place] / mine[place] for theirs, mine in zip(measured, times["ours"], strict=True)]
            middle = statistics.median(one[place] for one in measured)
            spread = f"{statistics.median(ratios):5.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
            line += f"   {kind} {middle:6.1f} ms {spread}"
        print(line)


if __name__ == "__main__":
    main()
