"""The swap of a state with one adapter more, after few and after many.

python -m tests.bench.chains.swap [--rounds 5] [--json FILE]

The model is the one of tests/bench/training.py: SDXL's 560 matrices at a hundredth of its width. Ours adds the new
adapter to a running sum; the peer adds up all adapters again, as `Delta.module` does. Bits are compared before timing.
Rounds alternate. Printed are the median CPU time of a swap and the range over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.families.sdxl import Sdxl
from stages.runtime.device import device
from stages.runtime.seeds import generator
from tests.bench.blocks import card, write_results
from tests.bench.training import write_model

COUNTS = (1, 4, 16)


def adapter(family: Sdxl, number: int) -> Adapter:
    fresh = fresh_adapter(family.shapes(), 4, 4, generator("swap", number))
    return Adapter(fresh.a, {n: 0.01 * torch.randn(b.shape, generator=generator(n)) for n, b in fresh.b.items()}, 1.0)


def weights(family: Sdxl) -> list[torch.Tensor]:
    return [family.module(name).weight.clone() for name in family.shapes()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 5), ("width", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, help="a file for the results; docs/performance.md is made from such")
    args = parser.parse_args()
    print(f"torch {torch.__version__} on {device()}, {torch.get_num_threads()} thread")
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(write_model(Path(folder), args.width), args.rounds)
    if args.json:
        table = {"caption": "Swap to a state of one adapter more, SDXL's 560 matrices at a hundredth of the width"}
        columns = ["adapters before", "way", "CPU time", "range"]
        command = f"python -m tests.bench.chains.swap --rounds {args.rounds}"
        write_results(args.json, card(), command, [{**table, "columns": columns, "rows": rows}])


def compare(family: Sdxl, rounds: int) -> list[list[str]]:
    """Prints and returns adapters before, way, median CPU time and its range."""
    terms = tuple(adapter(family, number) for number in range(max(COUNTS) + 1))
    times: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds + 1):
        for count in COUNTS:
            results = []
            for name, before in (("running sum", Delta(terms[:count])), ("all again", Delta())):
                family.shift(before)
                began = time.process_time()
                family.shift(Delta(terms[: count + 1]))
                times.setdefault((name, count), []).append(time.process_time() - began)
                results.append(weights(family) if number == 0 else [])
            if not all(torch.equal(a, b) for a, b in zip(*results, strict=True)):
                raise SystemExit(f"{count} adapters: the two differ")
    rows = []
    for (name, count), taken in times.items():
        middle, least, most = (1e3 * of(taken[1:]) for of in (statistics.median, min, max))
        print(f"one more after {count:2}: {name:12} {middle:6.1f} ms ({least:.1f} to {most:.1f})")
        rows.append([str(count), name, f"{middle:.1f} ms", f"{least:.1f} to {most:.1f}"])
    return rows


if __name__ == "__main__":
    main()
