"""Hostile input: python -m tests.bench.campaigns.fuzz [--count 5000] [--only pictures,yaml,safetensors,json,captions]

Each trial changes a valid file at random (bits, cuts, repetitions, tokens that mean something to its format) and reads
it as a user's file is read. It must be read, or be refused with one of our errors, in one printable line per fault,
within 10 seconds of CPU and 1 GiB of memory.
"""

import argparse
import io
import json
import os
import random
import resource
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save

from stages.core.params import Prepare, load
from stages.datasets.folder import Folder
from stages.evaluation.survey import read_answers, read_key
from stages.files.strict_json import read_json
from stages.files.tensors import read
from stages.photos.decode import decode
from stages.runtime.faults import Fault
from stages.tools import edit_params
from tests.bench.campaigns.campaign import Trial, parser, run

SECONDS, MEMORY = 10.0, 1 << 30
LIMITS = Prepare(resolution=32)
TOKENS = {
    "pictures": [b"\xff\xda", b"\xff\xd8", b"\xff\xc2", b"IDAT", b"\0\0\0\0", b"\xff\xff\xff\xff", b"acTL", b"iCCP"],
    "yaml": [b"[", b"{", b"&a ", b"*a", b"<<: ", b"!!python/object ", b"%YAML 1.1\n", b"\x07", b"9" * 5000, b"- " * 50,
             b"\t", b"? ", b"|", b">", b"'", b'"\\0"', b".nan", b"0x", b"1e999", b"2026-99-99", b"\n---\n", b"\xff"],
    "safetensors": [b"[" * 1000, b"9" * 4400, b"-1", b"1e9", b"NaN", b"null", b'"F64"', b"\0" * 8, b"\xff" * 8],
    "json": [b"NaN", b"1e999", b"[" * 5000, b"9" * 5000, b"null", b"-1", b'"\\ud800"', b'"a":1,"a":2', b"\xff", b"{}"],
    "captions": [b"\0", b"\x1b[31m", b"{}", b"[trigger]", "\u202e".encode(), b"a " * 6000, b"\xff", b"\xed\xa0\x80"],
}  # fmt: skip
SHARES = {"pictures": 8, "yaml": 6, "safetensors": 4, "json": 1, "captions": 1}  # of 20 trials


def picture(dice: random.Random) -> bytes:
    mode = dice.choice(["RGB", "L", "RGBA", "P"])
    image = Image.frombytes("RGB", (24, 20), dice.randbytes(24 * 20 * 3)).convert(mode)
    kind = dice.choice(["PNG", "GIF", "TIFF", "WEBP"] if mode in ("RGBA", "P") else ["PNG", "JPEG", "BMP", "WEBP"])
    file = io.BytesIO()
    image.save(file, kind, **({"progressive": dice.random() < 0.5} if kind == "JPEG" else {}))
    return file.getvalue()


def weights(dice: random.Random) -> bytes:
    names = [f"unet.down.{n}.lora_{side}.weight" for n in range(3) for side in "AB"]
    return save({name: torch.zeros(2, 3) for name in names}, {"format": "pt", "note": str(dice.random())})


ANSWER = {"comparison": "c000", "question": "same", "left": 0, "chosen": 1, "seconds": 1.5}
ANSWERS = {"kind": "palimpsest-answers", "schema": 1, "page": "p", "rater": "ab" * 8, "answers": [ANSWER]}
KEY = {
    "page": "p",
    "study": "s",
    "comparisons": {"c000": {"first": "a", "second": "b", "scores": {"dino": [0.1, 0.2]}}},
}


def read_choices(folder: Path, content: bytes) -> None:
    """A rater's answers and the key of a survey, one of them changed; and as any JSON."""
    (folder / "key.json").write_bytes(content if b"comparisons" in content else json.dumps(KEY).encode())
    (folder / "any.json").write_bytes(content if b"palimpsest" in content else json.dumps(ANSWERS).encode())
    read_json(folder / "any.json")
    read_answers(folder / "any.json", read_key(folder))


def read_concept(folder: Path, content: bytes) -> None:
    """A caption, a description of a concept, and a name of a file."""
    concept = folder / "mug"
    concept.mkdir()
    (concept / "01.png").write_bytes(b"not decoded here")
    (concept / "01.txt").write_bytes(content)
    (concept / "concept.yaml").write_bytes(b"noun: " + content[:200])
    name = content[-40:].replace(b"/", b"").replace(b"\0", b"").strip(b".") or b"a"
    Path(os.fsdecode(os.path.join(os.fsencode(concept), name + b".png"))).write_bytes(b"x")
    Folder(root=str(folder)).concept("objects", "mug")


def read_params(folder: Path, content: bytes) -> None:
    (folder / "params.yaml").write_bytes(content)
    edit_params.tree(folder / "params.yaml")
    load(folder / "params.yaml")


def read_weights(folder: Path, content: bytes) -> None:
    (folder / "a.safetensors").write_bytes(content)
    read(folder / "a.safetensors")


PARAMS = Path("data/profiles/toy-objects.yaml").read_bytes()
VALID: dict[str, Callable[[random.Random], bytes]] = {
    "pictures": picture,
    "yaml": lambda dice: PARAMS,
    "safetensors": weights,
    "json": lambda dice: json.dumps(dice.choice([ANSWERS, KEY])).encode(),
    "captions": lambda dice: b"a photo of a {} on a table",
}
READ: dict[str, Callable[[Path, bytes], object]] = {
    "pictures": lambda folder, content: decode(content, LIMITS),
    "yaml": read_params,
    "safetensors": read_weights,
    "json": read_choices,
    "captions": read_concept,
}


def changed(content: bytes, tokens: list[bytes], dice: random.Random) -> bytes:
    """The content after one to four changes."""
    new = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(new) + 1)
        end = min(len(new), at + dice.choice([1, 8, 64, 1000]))
        how = dice.randrange(7)
        if how == 0 and at < len(new):
            new[at] ^= 1 << dice.randrange(8)
        elif how == 1:
            new[at:end] = dice.choice(tokens)
        elif how == 2:
            new[at:at] = dice.choice(tokens) * dice.choice([1, 1, 3, 100])
        elif how == 3:
            del new[at:end]
        elif how == 4:
            new[at:at] = new[at:end] * dice.choice([1, 20, 300])
        elif how == 5:
            new[at:end] = struct.pack("<Q", dice.choice([0, 1, 2**31, 2**63, 2**64 - 1]))[: max(end - at, 1)]
        elif dice.random() < 0.2:
            del new[at:]
    return bytes(new[: 4 << 20])


def one(number: int, kinds: list[str]) -> Trial:
    dice = random.Random(number)
    kind = dice.choice(kinds)
    content = changed(VALID[kind](dice), TOKENS[kind], dice)
    began, problem, result, before = time.process_time(), "", "read", peak()
    with tempfile.TemporaryDirectory() as folder:
        try:
            READ[kind](Path(folder), content)
        except Fault as fault:
            result, text = f"refused with exit {fault.code}", str(fault)
            if not all(line.isprintable() and line.strip() for line in text.splitlines()):
                problem = f"cannot be printed: {text!r}"
        except Exception as error:
            result, problem = type(error).__name__, repr(error)[:500]
    seconds = time.process_time() - began
    if seconds > SECONDS:
        problem = f"{seconds:.1f} s"
    if peak() > before + MEMORY:
        problem = "more than 1 GiB of memory"
    return Trial(kind, result, not problem, problem)


def peak() -> int:
    """The most memory that this process has used so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    arguments = parser(__doc__, 5000)
    arguments.add_argument("--only", default=",".join(SHARES), help="which kinds, of " + ", ".join(SHARES))
    args: argparse.Namespace = arguments.parse_args()
    kinds = [kind for kind in args.only.split(",") for _ in range(SHARES[kind])]
    load()  # imports everything, so that no trial is charged for it
    run(args, lambda number: one(number, kinds))


if __name__ == "__main__":
    main()
