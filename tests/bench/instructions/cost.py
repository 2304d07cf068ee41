"""What a fixed instruction set costs on this CPU: python -m tests.bench.instructions.cost [--blocks 9]

On the embedded base, each in a process per setting of PALIMPSEST_INSTRUCTIONS, on one thread, in turn:

  train     a training step with four pictures
  sample    a denoising step of 20 pictures with guidance, and its share of the decoding, with two steps a picture
  score     DINO's embeddings of 40 pictures

Printed are the median CPU time and the ratio to `native`, with its range over the blocks. `native` is whatever the
libraries choose on this processor, so the ratio depends on it: it is largest where there is AVX-512.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from stages.runtime.instruction_set import NATIVE, VALUES, VARIABLE

KINDS = ("train", "sample", "score")
PROMPT = "a photo of a sks owl"


def work(kind: str) -> tuple[Callable[[], object], int]:
    """The work of one block, and the number of steps in it."""
    import torch
    from PIL import Image

    from stages.adapters.algebra import fresh_adapter
    from stages.core.family import Row
    from stages.core.params import load
    from stages.runtime.device import device
    from stages.runtime.seeds import generator, seed
    from stages.sampling.encodings import encode_prompts
    from stages.training.step import Descent

    device()
    params = load()
    size = params.prepare.resolution
    family, drawn = params.family, torch.randint(0, 256, (40, size, size, 3), generator=generator("bench"))
    pictures = [Image.fromarray(one.to(torch.uint8).numpy()) for one in drawn]
    if kind == "score":
        return lambda: params.judges["dino"].embed(pictures), 1  # type: ignore[attr-defined]
    if kind == "sample":
        encodings = encode_prompts(family, [PROMPT] * 20)
        noise = torch.randn((20, *family.noise_shape()), generator=generator("noise"))
        return lambda: family.sample(encodings, noise, 2, 5.0, "euler", 20), 2
    options = params.train
    adapter = fresh_adapter(family.shapes(), options.rank, options.alpha, generator("adapter"))
    learner = family.learner(None, adapter, options)
    learner.prepare([family.encode_images([picture]) for picture in pictures[:4]], family.encode_prompts([PROMPT]))
    descent = Descent(learner, options, 5)

    def train() -> None:
        for step in range(5):
            descent.gradient(learner.inputs([Row(i, 0, seed("step", step, i), 0.25) for i in range(4)]))
            descent.update(options.learning_rate)
        descent.read()

    return train, 5


def serve(kind: str) -> None:
    """Does a block for every line of standard input and prints the seconds of CPU time per step."""
    block, steps = work(kind)
    block()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        block()
        print((time.process_time() - began) / steps, flush=True)


def measure(kind: str, blocks: int) -> None:
    command = [sys.executable, "-m", "tests.bench.instructions.cost", "--serve", kind]
    peers = {
        setting: subprocess.Popen(
            command, env=os.environ | {VARIABLE: setting}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for setting in VALUES
    }
    times: dict[str, list[float]] = {setting: [] for setting in peers}
    for peer in peers.values():
        assert peer.stdout.readline() == "ready\n"
    for _ in range(blocks):  # one after the other, never both at a time
        for setting, peer in peers.items():
            peer.stdin.write("\n")
            peer.stdin.flush()
            times[setting].append(float(peer.stdout.readline()))
    for peer in peers.values():
        peer.communicate()
    print(f"{kind:8} {NATIVE} {1000 * statistics.median(times[NATIVE]):8.1f} ms", end="")
    for setting in VALUES[:-1]:
        ratios = [fixed / free for fixed, free in zip(times[setting], times[NATIVE], strict=True)]
        spread = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"   {setting} {1000 * statistics.median(times[setting]):8.1f} ms {spread}", end="")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    for kind in args.kinds:
        measure(kind, args.blocks)


if __name__ == "__main__":
    main()
