"""Real styles: a folder per style, each picture named after its content, so that style and content are separate.

    root/noto_emoji/snail.png    a snail in the style that prompts call "noto emoji"
    root/README.md               optional, with a table of the columns folder, source and licence

A style is learned from pictures of some contents and compared with pictures of others, as in arXiv 2410.04891.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import Field

from stages.core.dataset import Concept, Dataset, Picture, datasets, fill
from stages.datasets.shared.names import TEXTS, Template, by_id, noun_of
from stages.files.untrusted import list_folder
from stages.runtime.faults import ConfigFault, InputFault

PROMPTS = (
    "{} image of a wizard",
    "{} image of a policeman",
    "{} image of a santa hat",
    "{} image of a clock",
    "{} image of a mirror",
)
CREDITS = "README.md"


@datasets.register("style_folders")
class StyleFolders(Dataset):
    """Folders of styles, all learned from the same contents where possible, so that only the style differs."""

    root: str
    contents: list[str] = Field([], max_length=1000)  # to learn from, as file stems; empty: the first by name
    training: int = Field(4, ge=1)  # the number of training pictures; the others are references
    templates: list[Template] = Field(list(PROMPTS), min_length=1)  # of the prompts to sample

    def domains(self) -> dict[str, list[str]]:
        return {"styles": list(self._folders)}

    def load(self, domain: str, name: str) -> Concept:
        folder = self._folders[name]
        words = noun_of(folder)
        training, references = self._split(folder)
        return Concept(
            name=name,
            token=words,
            noun="",
            training_prompt=f"{words} image",
            prompts=tuple(fill(template, words) for template in self.templates),
            plain_prompts=tuple(" ".join(fill(template, "").split()) for template in self.templates),
            training=tuple(self._picture(p, f"{words} image of {noun_of(p.with_suffix(''))}") for p in training),
            references=tuple(self._picture(path, None) for path in references),
        )

    @cached_property
    def _folders(self) -> dict[str, Path]:
        root = Path(self.root)
        if not root.is_dir():
            raise ConfigFault(f"source: {root} is not a folder. Make it, with one folder per style in it.")
        folders = [path for path in list_folder(root, root) if path.is_dir()]
        if not folders:
            raise ConfigFault(f"{root}: contains no styles. Make a folder per style and put its pictures there.")
        return by_id(folders)

    def _split(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Splits a style's pictures into training pictures and references.

        Raises:
            InputFault: there are not enough pictures for both.
        """
        files = [path for path in list_folder(folder, Path(self.root)) if path.suffix.lower() not in TEXTS]
        candidates = [path for path in files if path.stem in self.contents] or files
        training = candidates[: self.training]
        references = [path for path in files if path not in training]
        if len(training) < self.training or not references:
            raise InputFault(
                f"{folder}: has {len(files)} pictures, too few for {self.training} training pictures and at least one "
                "reference. Add some, or lower dataset.options.training."
            )
        return training, references

    def _picture(self, path: Path, caption: str | None) -> Picture:
        source, licence = self._credits.get(path.parent.name, ("", ""))
        return Picture(path.name, path, caption, source, licence)

    @cached_property
    def _credits(self) -> dict[str, tuple[str, str]]:
        """Folder -> source and licence, from the table in README.md, if there is one."""
        path = Path(self.root, CREDITS)
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.startswith("|")]
        if not rows or not {"folder", "source", "licence"} <= set(rows[0]):
            return {}
        at = {column: rows[0].index(column) for column in ("folder", "source", "licence")}
        complete = [row for row in rows[1:] if len(row) == len(rows[0])]
        return {row[at["folder"]]: (row[at["source"]], row[at["licence"]]) for row in complete}
