"""The paper's ten DreamBooth subjects, with the choice, tokens, orders and prompts of its reference code."""

from __future__ import annotations

import random
import re
from functools import cached_property
from pathlib import Path

from stages.core.dataset import Concept, Dataset, Picture, datasets, fill
from stages.files.untrusted import list_folder
from stages.runtime.faults import ConfigFault

CHOICE = 42  # the seed with which the reference code chooses ten classes and a subject of each
# The reference code's rare words, in the order of the chosen subjects.
TOKENS = ("sks", "zwz", "sbu", "uwu", "pdw", "twt", "zsn", "ofl", "psq", "cws")
TRAINING = "a photo of {}"
PROMPTS = (
    "a {} in a purple wizard outfit",
    "a {} in a police outfit",
    "a {} wearing a santa hat",
    "a {} in a jail",
    "a {} looking into a mirror",
)
CLASSES, CREDITS = "prompts_and_classes.txt", "references_and_licenses.txt"
HOME = "https://github.com/google/dreambooth"
OF_UNSPLASH, OF_AUTHORS = "Unsplash License (https://unsplash.com/license)", "CC-BY-4.0"


@datasets.register("dreambooth")
class DreamBooth(Dataset):
    """The folder `dataset` of github.com/google/dreambooth; the ten subjects are enough."""

    root: str

    def domains(self) -> dict[str, list[str]]:
        return {"objects": list(self._subjects)}

    def load(self, domain: str, name: str) -> Concept:
        token, noun = self._subjects[name]
        training = self._pictures(name)
        words = f"{token} {noun}"
        return Concept(
            name=name,
            token=token,
            noun=noun,
            training_prompt=fill(TRAINING, words),
            prompts=tuple(fill(prompt, words) for prompt in PROMPTS),
            plain_prompts=tuple(fill(prompt, noun) for prompt in PROMPTS),
            training=training,
            references=training,
        )

    @cached_property
    def _subjects(self) -> dict[str, tuple[str, str]]:
        """The ten subjects: name -> token, noun."""
        classes = read_classes(self._text(CLASSES))
        if len(set(classes.values())) < len(TOKENS):
            raise ConfigFault(f"{Path(self.root, CLASSES)}: lists fewer than {len(TOKENS)} classes. {REMEDY}")
        return {name: (token, noun) for token, (name, noun) in zip(TOKENS, choose(classes), strict=True)}

    @cached_property
    def _credits(self) -> dict[str, tuple[str, dict[str, str]]]:
        return read_credits(self._text(CREDITS), read_classes(self._text(CLASSES)))

    def _text(self, name: str) -> str:
        path = Path(self.root, name)
        try:
            return path.read_text("utf-8", errors="replace")
        except (OSError, ValueError):
            raise ConfigFault(f"source: {path} is missing. {REMEDY}") from None

    def _pictures(self, name: str) -> tuple[Picture, ...]:
        folder = Path(self.root, name)
        files = list_folder(folder, Path(self.root)) if folder.is_dir() else []
        photos = [path for path in files if path.suffix == ".jpg"]  # as the reference code selects them
        if not photos:
            raise ConfigFault(f"source: {folder} contains no .jpg files. {REMEDY}")
        credit, by_photo = self._credits.get(name, ("", {}))
        return tuple(_picture(path, credit, by_photo.get(path.stem, "")) for path in photos)


REMEDY = f"Get {HOME} and set source in params.yaml to its folder 'dataset'."


def choose(classes: dict[str, str]) -> list[tuple[str, str]]:
    """Chooses ten subjects as the reference code does.

    Args:
        classes: subject -> class, of the whole dataset.

    Returns:
        Subjects with their classes, in the order of TOKENS.
    """
    subjects: dict[str, list[str]] = {}
    for subject, kind in classes.items():
        subjects.setdefault(kind, []).append(subject)
    rng = random.Random(CHOICE)
    kinds = rng.sample(sorted(subjects), len(TOKENS))
    return [(rng.choice(sorted(subjects[kind])), kind) for kind in kinds]


def read_classes(text: str) -> dict[str, str]:
    """Reads the table at the top of prompts_and_classes.txt: subject -> class."""
    table = text.partition("subject_name,class")[2].partition("Prompts")[0]
    return dict(re.findall(r"^(\w+),([\w ]+?)\s*$", table, re.MULTILINE))


def read_credits(text: str, subjects: dict[str, str]) -> dict[str, tuple[str, dict[str, str]]]:
    """Reads references_and_licenses.txt: subject -> the credit for all its photos, and those of single photos."""
    credits: dict[str, tuple[str, dict[str, str]]] = {}
    name = None
    for line in (line.strip() for line in text.splitlines()):
        head, colon, rest = (part.strip() for part in line.partition(":"))
        if colon and head in subjects:
            name = head
            credits[name] = (rest.rstrip("."), {})
        elif line == "Licenses":
            break
        elif name and colon and re.fullmatch(r"\d\d", head):
            credits[name][1][head] = rest
        elif name and line:
            credits[name] = (f"{credits[name][0]} {line.strip('()')}".strip(), credits[name][1])
    return credits


def _picture(path: Path, credit: str, own: str) -> Picture:
    source = ", ".join(filter(None, (own, credit, f"DreamBooth dataset ({HOME})")))
    return Picture(path.name, path, source=source, licence=OF_UNSPLASH if "unsplash.com" in source else OF_AUTHORS)
