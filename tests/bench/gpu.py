"""SDXL at full size on one GPU: python -m tests.bench.gpu [--size full] [--seconds 540] [--no-compile] [--float8]

First what the device can do (products of matrices, copies in memory), the swap of a state and a merge. Then seconds per
picture and per training step beside two peers: the paper's published loop (float32, checkpointing, the picture encoded
and the loss read at every step; five pictures at a time, prompts encoded each time), and diffusers at its best flags
(bfloat16, TF32, fused AdamW, no checkpointing; fused projections, channels last). And the most memory training held.

Weights are random and made on the device, so that nothing is read. Times are differences between a long and a short
run, in turn for all peers, so that what happens once (compiling, recording a graph) is not in them; it is told apart.
The reference's 8-bit AdamW is torch's own here, and its loading of 13.9 GB for each state is left out. With
--size hundredth everything runs on a CPU in a minute or two, where the floor means nothing.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image

from stages.core import steps as stage_steps
from stages.core.adapters import fresh_adapter
from stages.core.device import device
from stages.core.params import load
from stages.core.runs import Run, Sequence
from stages.core.seeds import generator
from stages.core.strategy import State
from stages.core.weights import Adapter, Delta, select

from .blocks import ratio, short
from .peers import BEST, REFERENCE, Loop, images
from .standin import Standin

# TFLOP at full size (counted with torch's FlopCounterMode): a training step from cached latents without checkpointing;
# a picture of 50 steps with guidance, and its decoding.
STEP, PICTURE, STEPS = 14.557, 686.6, 50
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
PROMPT = "a photo of a sks star"
TARGETS = {"step": 0.045, "picture": 1.35, "swap": 0.05, "merge": 1.0, "memory": 24.0}


def synced(work: Callable[[], object]) -> float:
    """Seconds, all that it has started on the device included."""
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def roofline(size: int, dtype: torch.dtype) -> float:
    """TFLOP/s of products of size x size matrices, and prints them with the bandwidth of copies."""
    a, b = (torch.randn((size, size), device=device(), dtype=dtype) for _ in range(2))
    seconds = min(synced(lambda: a @ b) for _ in range(10))
    copied = torch.empty((64 if size > 1024 else 1) << 20, device=device())
    target = torch.empty_like(copied)
    moved = min(synced(lambda: target.copy_(copied)) for _ in range(10))
    speed = 2 * size**3 / seconds / 1e12
    bandwidth = 2 * copied.numel() * 4 / moved / 1e12
    print(f"roofline: {speed:.3g} TFLOP/s in {dtype} at {size}^3, {bandwidth:.3g} TB/s copying")
    return speed


@dataclass(frozen=True)
class Peer:
    work: Callable[[int], object]  # so many steps
    low: int
    high: int


def slopes(peers: Mapping[str, Peer], seconds: float) -> dict[str, tuple[list[float], list[float]]]:
    """Of each peer, block by block in turn, seconds per unit and seconds that do not depend on how many units."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in peers}
    began, blocks = time.perf_counter(), 0
    while blocks < 1 or time.perf_counter() - began < seconds * blocks / (blocks + 1):
        for name, peer in peers.items():
            brief, long = (synced(partial(peer.work, count)) for count in (peer.low, peer.high))
            each = max((long - brief) / (peer.high - peer.low), 1e-9)
            found[name][0].append(each)
            found[name][1].append(max(brief - peer.low * each, 0.0))
        blocks += 1
    return found


def told(times: Mapping[str, list[float]], floor: float | None, aim: str) -> None:
    """Each peer beside ours, which comes first: the ratio with its spread over blocks, and the share of the floor."""
    ours = next(iter(times.values()))
    for name, taken in times.items():
        middle, low, high = ratio(taken, ours)
        share = f", the floor is {floor / statistics.median(taken):.0%} of it" if floor else ""
        beside = aim if taken is ours else f", {middle:.2f}x ours [{low:.2f}, {high:.2f}]"
        print(f"  {name:30} {short(statistics.median(taken)):>9}{share}{beside}, {len(taken)} blocks")


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.full = args, args.size == "full"
        dtype = "bfloat16" if device().type == "cuda" else "float32"
        pixels = 1024 if self.full else 128
        compiled = device().type == "cuda" and args.compile
        eighth: dict[str, Any] = {"feed_forward_dtype": "float8_e4m3fn"} if args.float8 else {}
        self.family = Standin(size=args.size, dtype=dtype, pixels=pixels, compile=compiled, **eighth)
        print(f"{args.size} size on {self.name()}, torch {torch.__version__}, {dtype}", end="")
        seconds = synced(lambda: self.family.pipeline)
        count = sum(p.numel() for p in self.family.pipeline.unet.parameters())
        print(f"; UNet of {count / 1e6:.0f} M weights made in {short(seconds)}")
        side = 8192 if device().type == "cuda" else 512
        self.speed = roofline(side, torch.bfloat16 if device().type == "cuda" else torch.float32)
        self.rank = 64 if self.full else 8

    @staticmethod
    def name() -> str:
        return torch.cuda.get_device_name() if device().type == "cuda" else "a CPU"

    def floor(self, tera: float) -> float | None:
        """Seconds that so many TFLOP take at the speed that was measured; only known at full size."""
        return tera / self.speed if self.full else None

    def aim(self, what: str) -> str:
        if not self.full:
            return ""
        return f", aimed at {TARGETS[what]:g} GiB" if what == "memory" else f", aimed at {short(TARGETS[what])}"

    def adapter(self, word: object) -> Adapter:
        fresh = fresh_adapter(self.family.shapes(), self.rank, self.rank, generator("bench", word))
        g = generator("bench", "b", word)
        return Adapter(fresh.a, {n: 1e-3 * torch.randn(b.shape, generator=g) for n, b in fresh.b.items()}, fresh.scale)

    def ours_in_training(self) -> Callable[[int], object]:
        """The stage's own function: encoding from its cache, loop, losses; of one task from the base."""
        params = load()
        picture = Image.effect_noise((self.family.pixels,) * 2, 64).convert("RGB")
        data = {
            "concept": {"name": "star", "noun": "star", "training_prompt": PROMPT, "prompts": [PROMPT]},
            "pictures": {"training": [{"caption": None}]},
        }
        run = Run(Sequence("bench", params.domains[0], "0"), params.strategies[0], 0)
        before = State(self.adapter("before").delta)  # not the base, whose adapter would be kept for other runs
        calls = iter(range(10**6))

        def work(count: int) -> object:
            sizes = {"rank": self.rank, "alpha": self.rank, "batch": 1, "steps": count, "checkpoint_every": 10**6}
            here = params.model_copy(
                update={
                    "train": params.train.model_copy(update={**sizes, "schedule": "constant", "learning_rate": 1e-5}),
                    "seeds": (0,),
                }
            )
            here.__dict__["family"] = self.family
            order = Run(run.sequence, run.strategy, next(calls))  # another seed: nothing to go on from
            return stage_steps.train(here, order, "01", before, data, [picture])

        return work

    def training(self, seconds: float) -> None:
        print(f"training, one picture of {self.family.pixels} pixels, rank {self.rank}")
        ours = self.ours_in_training()
        low, high = (5, 65) if self.full else (2, 4)
        once = synced(lambda: ours(low))
        if device().type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            ours(low)
            most = torch.cuda.max_memory_allocated() / 2**30
            print(f"  most memory held: {most:.1f} GiB{self.aim('memory')}")
        pipeline, peers = self.family.pipeline, {"ours": Peer(ours, low, high)}
        self.family.shift(Delta())
        pixels = 2 * torch.rand((1, 3, self.family.pixels, self.family.pixels), device=device()) - 1
        encoded, loops = self.family.encode_prompts([PROMPT]), []
        for name, way in {"the reference's loop": REFERENCE, "diffusers' script, best flags": BEST}.items():
            model = copy.deepcopy(pipeline.unet).to(device(), way.dtype)
            loops.append(Loop(model, pipeline.vae.to(device()), pixels, encoded, self.rank, way))
            loops[-1].steps(1)
            peers[name] = Peer(loops[-1].steps, *((2, 8) if self.full else (1, 2)))
        found = slopes(peers, seconds)
        print(f"  ours, the first time: {short(once)} for {low} steps")
        told({name: each for name, (each, _) in found.items()}, self.floor(STEP), self.aim("step"))

    def sampling(self, seconds: float) -> None:
        count = 8
        family, noise = self.family, torch.randn((8, *self.family.noise_shape()), generator=generator("noise"))
        print(f"sampling, pictures of {family.pixels} pixels, times for {STEPS} steps and decoding")
        encoded = {name: value.repeat_interleave(count, 0) for name, value in family.encode_prompts([PROMPT]).items()}
        family.shift(self.adapter(0).delta)

        def ours(steps: int) -> object:
            return family.sample(encoded, noise, steps, 5.0, "euler", count)

        first = synced(lambda: ours(1))
        pipelines = {way: self.peer_pipeline(way.dtype) for way in (REFERENCE, BEST)}
        low, high = (2, 8) if self.full else (1, 3)
        peers = {"ours": Peer(ours, low, high)}
        for name, way, batch in (
            ("the reference's way", REFERENCE, REFERENCE.batch),
            ("diffusers, one at a time", BEST, 1),
            ("diffusers, eight at a time", BEST, BEST.batch),
        ):
            some = min(batch, count)  # a whole batch of each, for what is left over would be slower

            def work(steps: int, way: Any = way, some: int = some) -> object:
                return images(pipelines[way], [PROMPT] * some, noise[:some], steps, some)

            work(1)
            peers[name] = Peer(work, low, high)
        sizes = {"ours": count, "the reference's way": REFERENCE.batch, "diffusers, one at a time": 1}
        found = slopes(peers, seconds)
        print(f"  ours, the first time: {short(first)} for one step of {count}")
        each = {
            name: [(STEPS * step + rest) / sizes.get(name, BEST.batch) for step, rest in zip(*parts, strict=True)]
            for name, parts in found.items()
        }
        told(each, self.floor(PICTURE), self.aim("picture"))

    def peer_pipeline(self, dtype: torch.dtype) -> Any:
        """Another one of diffusers' pipelines with the same weights in their own place."""
        own = self.family.pipeline
        copies = {name: copy.deepcopy(getattr(own, name)).to(dtype=dtype) for name in PARTS}
        parts = dict(own.components) | copies
        pipeline = type(own)(**parts, add_watermarker=False)
        pipeline.set_progress_bar_config(disable=True)
        if dtype != torch.float32:
            pipeline.unet.to(memory_format=torch.channels_last)
            pipeline.unet.fuse_qkv_projections()
        return pipeline

    def states(self) -> None:
        sums = Delta(tuple(self.adapter(word) for word in range(10 if self.full else 3)))
        unet = self.family.pipeline.unet
        self.family.shift(Delta())
        before = {name: value.data_ptr() for name, value in unet.state_dict().items()}
        swaps = [synced(lambda: self.family.shift(sums)) for _ in range(3)]
        in_place = before == {name: value.data_ptr() for name, value in unet.state_dict().items()}
        stored = {name: value.cpu() for name, value in unet.state_dict().items()}
        loads = [synced(lambda: unet.load_state_dict(stored)) for _ in range(3)]
        print(
            f"swap to a sum of {len(sums.terms)} adapters: {short(statistics.median(swaps))}"
            f"{self.aim('swap')}; {'in place' if in_place else 'NOT IN PLACE'}; copying the whole UNet from "
            f"memory: {short(statistics.median(loads))}"
        )
        old = select(Delta(), self.adapter("old").delta)
        new = self.adapter("new").delta
        merges = [synced(lambda: select(old, new)) for _ in range(2)]
        print(f"merge by magnitude: {short(statistics.median(merges))}{self.aim('merge')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["full", "hundredth"], default="full")
    parser.add_argument("--seconds", type=float, default=540, help="for everything; at least one block is run of each")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="ours without torch.compile")
    parser.add_argument("--float8", action="store_true", help="ours with feed-forward layers in float8: other pictures")
    args = parser.parse_args()
    diffusers_logging.set_verbosity_error()
    params_at = Path("params.yaml").resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        for name in ("params.yaml", "data"):
            Path(folder, name).symlink_to(params_at / name)
        os.chdir(folder)
        try:
            bench = Bench(args)
            bench.states()
            bench.sampling(0.4 * args.seconds)
            if device().type == "cuda":
                torch.cuda.empty_cache()
            bench.training(0.3 * args.seconds)
        finally:
            os.chdir(params_at)


if __name__ == "__main__":
    main()
