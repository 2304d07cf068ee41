"""The first hour of a new user, step by step: python -m tests.bench.first_hour [--here] [--profile quick] [--at PLACE]

In an empty folder: a clone and its environment, the demo, own photos, one more concept, the strategies compared, a LoRA
exported and loaded with diffusers, and the report read. Each step is a command that a user would type; its time, exit
code and last line of output are printed. The whole output is in PLACE/output.

Photos are taken from PALIMPSEST_DREAMBOOTH (the dataset's folder of folders) if it is set, and are drawn otherwise.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

PROJECT = Path(__file__).resolve().parents[2]
THINGS = ("bear_plushie", "candle", "teapot")  # the last one is added later
PHOTOS = 4  # of each
LOAD = """
import sys
import torch
from diffusers import StableDiffusionXLPipeline
pipeline = StableDiffusionXLPipeline.from_pretrained("data/world/base", torch_dtype=torch.float32)
pipeline.set_progress_bar_config(disable=True)
pipeline.load_lora_weights(sys.argv[1])
picture = pipeline(sys.argv[2], num_inference_steps=12, height=64, width=64).images[0]
picture.save(sys.argv[3])
print(f"diffusers sampled {sys.argv[2]!r}: {picture.size[0]} pixels")
"""
READ = r"""
import re, sys
from pathlib import Path
text = Path(sys.argv[1]).read_text("utf-8")
assert len(text) < 8e6, len(text)
assert not re.search(r'src="(?!data:)|url\((?!data:)|<link', text)
lead = re.sub(r"<[^>]+>", "", re.search(r'class="lead">(.+?)</p>', text, re.S)[1])
print(lead, f"({len(text) / 1e6:.1f} MB)")
"""


@dataclass(frozen=True)
class Step:
    """A command that a user types."""

    name: str
    command: list[str]
    folder: Path


@dataclass(frozen=True)
class Result:
    """What a step took and printed."""

    step: Step
    seconds: float
    code: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        lines = ((self.stdout if self.code == 0 else "") or self.stderr or self.stdout).strip().splitlines()
        return lines[-1].strip() if lines else ""


def photos(folder: Path) -> None:
    """Writes a folder of photos per thing: real ones if available, otherwise drawings of different kinds."""
    source = os.environ.get("PALIMPSEST_DREAMBOOTH")
    for number, name in enumerate(THINGS):
        target = folder / ("later" if name == THINGS[-1] else "things") / name
        target.mkdir(parents=True)
        real = sorted(Path(source, name).glob("*.jpg"))[:PHOTOS] if source else []
        for photo in real:
            shutil.copy(photo, target)
        for k in range(0 if real else PHOTOS):
            picture = Image.effect_noise((256, 256), 30).convert("RGB")
            corners, colour = (40 + 10 * k, 50, 180 + 10 * k, 200), ("firebrick", "seagreen", "royalblue")[number]
            pen = ImageDraw.Draw(picture)
            (pen.ellipse, pen.rectangle, pen.chord)[number](corners, *((20, 250) if number == 2 else ()), fill=colour)
            picture.save(target / f"{k}.jpg")


def steps(at: Path, profile: str, here: bool) -> Iterator[Step]:
    clone, mine = at / "palimpsest", at / "my-things"
    lora, picture = str(at / "my-things.safetensors"), str(at / "drawn.png")
    yield Step("clone", ["git", "clone", "--quiet", str(PROJECT), str(clone)], at)
    if not here:
        yield Step("install", ["make", ".venv/ready"], clone)
    yield Step("look around", ["palimpsest", "--help"], clone)
    yield Step("check the machine", ["palimpsest", "doctor"], clone)
    yield Step("demo", ["make", "demo", f"PROFILE={profile}"], clone)
    yield Step("again", ["make", "demo", f"PROFILE={profile}"], clone)
    yield Step("own photos", ["palimpsest", "init", str(mine), "--photos", str(at / "things")], clone)
    yield Step("what would run", ["palimpsest", "plan"], mine)
    yield Step("run", ["palimpsest", "run"], mine)
    yield Step("progress", ["palimpsest", "concept", "list"], mine)
    added = ["palimpsest", "concept", "add", THINGS[-1], "--photos", str(at / "later" / THINGS[-1]), "--yes"]
    yield Step("one more", added, mine)
    yield Step("compare", ["palimpsest", "report", "--no-open"], mine)
    yield Step("status", ["palimpsest", "status"], mine)
    export = ["palimpsest", "export", "objects/0/merge_init/0", "--task", "03", "--format", "diffusers", "--to", lora]
    yield Step("export", export, mine)
    yield Step("load elsewhere", ["python", "-c", LOAD, lora, "a photo of a candle", picture], mine)
    yield Step("read the report", ["python", "-c", READ, "report/own/report.html"], mine)


def environment(clone: Path, here: bool) -> dict[str, str]:
    """The environment variables of a shell in which the clone's environment is active."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    first = Path(sys.executable).parent if here else clone / ".venv/bin"
    return inherited | {"PATH": os.pathsep.join([str(first), inherited["PATH"]])}


def borrow(clone: Path) -> None:
    """Links this environment into the clone in place of its own, so that make has nothing to install."""
    (clone / ".venv").mkdir()
    (clone / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (clone / ".venv/ready").touch()


def run(step: Step, env: dict[str, str], output: Path) -> Result:
    """Runs a step and writes its command and output to a file."""
    began = time.monotonic()
    done = subprocess.run(
        step.command, cwd=step.folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    output.write_text(f"$ {' '.join(step.command)}\n{done.stdout}{done.stderr}", "utf-8")
    return Result(step, time.monotonic() - began, done.returncode, done.stdout, done.stderr)


def shown(step: Step, at: Path) -> str:
    words = ["..." if "\n" in word else word.replace(f"{at}/", "") for word in step.command]
    return " ".join(words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true", help="use this environment instead of installing one")
    parser.add_argument("--profile", default="toy-objects", help="of the demo")
    parser.add_argument("--at", type=Path, help="an empty folder, which is kept; default: a temporary one")
    args = parser.parse_args()
    at = (args.at or Path(tempfile.mkdtemp(prefix="first-hour-"))).resolve()
    (at / "output").mkdir(parents=True)
    photos(at)
    env = environment(at / "palimpsest", args.here)
    print("| step | command | seconds | exit code | last line |\n|---|---|---|---|---|", flush=True)
    for number, step in enumerate(steps(at, args.profile, args.here), 1):
        result = run(step, env, at / "output" / f"{number:02d}.txt")
        last = result.last_line.replace("|", "/")
        row = (step.name, f"`{shown(step, at)}`", f"{result.seconds:.0f}", str(result.code), last)
        print(f"| {' | '.join(row)} |", flush=True)
        if result.code:
            print(f"stopped: the output is in {at / 'output'}", file=sys.stderr)
            return 1
        if step.name == "clone" and args.here:
            borrow(at / "palimpsest")
    if args.at is None:
        shutil.rmtree(at)
    return 0


if __name__ == "__main__":
    sys.exit(main())
