"""The base's tokenizer: a byte-pair tokenizer of CLIP's kind, in which ordinary words take few tokens."""

import gzip
import json
import tempfile
from itertools import pairwise
from pathlib import Path

import open_clip
from transformers import CLIPTokenizer

from data.world import scenes
from data.world.artwork import COLOURS, NOUNS

LENGTH = 32
COMMON = 3000  # merges of CLIP's own vocabulary, which has the commonest first
# Words of prompts that the base's own captions lack; like any rare word to a real model, they mean nothing to it yet.
OTHER_WORDS = (
    "of a an photo picture image style painting drawing the and with wearing looking into wizard police policeman "
    "outfit purple santa hat jail mirror clock pen jungle sneaker boot stuffed animal candle can glasses bowl "
    "sunglasses teapot toy vase cup person face blue house wooden floor water mountain street background top grass"
)


def words() -> list[str]:
    """The words that are one token each."""
    concepts = [known.token for known in (*scenes.OBJECTS, *scenes.TUNING_OBJECTS)]
    styles = [style.name for style in (*scenes.STYLES, *scenes.TUNING_STYLES)]
    said = [*scenes.PLACE_WORDS.values(), *scenes.BASE_STYLES, *NOUNS, *COLOURS, OTHER_WORDS]
    return sorted({*" ".join([*said, *concepts, *styles]).split()})


def _common_merges() -> list[tuple[str, str]]:
    file = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    pairs = [tuple(line.split()) for line in gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")[1:]]
    plain = (p for p in pairs if len(p) == 2 and all(half.removesuffix("</w>").isascii() for half in p))
    return [(a, b) for (a, b), _ in zip(plain, range(COMMON), strict=False)]


def _merges() -> list[tuple[str, str]]:
    """CLIP's commonest merges, followed by those that merge each word into one token."""
    merges = {pair: i for i, pair in enumerate(_common_merges())}
    for word in words():
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            # As the tokenizer will do it: the oldest of the merges that apply; a new merge only where none applies.
            known = [(merges[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in merges]
            i = min(known)[1] if known else 0
            if not known:
                merges[parts[0], parts[1]] = len(merges)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return list(merges)


def new_tokenizer() -> CLIPTokenizer:
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]
    merges = _merges()
    tokens = [*letters, *(c + "</w>" for c in letters), *dict.fromkeys(a + b for a, b in merges)]
    vocab = {t: i for i, t in enumerate([*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
        Path(folder, "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges) + "\n")
        return CLIPTokenizer(f"{folder}/vocab.json", f"{folder}/merges.txt", model_max_length=LENGTH)
