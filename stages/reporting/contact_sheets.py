"""The pictures of a report: one prompt and one noise after each task, always the first prompt and the first noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from stages.core.params import Params
from stages.core.runs import Run, TaskSequence, runs
from stages.files.artifact import manifest
from stages.files.pictures import open_picture, to_png
from stages.reporting import regimes
from stages.reporting.figures import FONTS, FRAME, INK, QUIET
from stages.runtime.formatting import words

SMALLEST, LARGEST = 96, 160  # pixels of a cell: smaller pictures are enlarged by whole factors, larger ones resampled
GAP, WIDE_GAP, EDGE, LINE = 6, 20, 24, 19  # pixels
LABEL, HEAD = 190, 96  # of a sheet: the width of its labels, and the height of its header
SIDE_BY_SIDE = 3  # concepts at most
EMPTY, FRAME_WIDTH = "#f5f6f8", 2


@dataclass(frozen=True, eq=False)
class ConceptPictures:
    """The pictures of one concept that have the same prompt and noise."""

    name: str
    prompt: str
    reference: Image.Image
    base: Image.Image
    file: str  # its path in every folder of images


def draw_all(params: Params, folder: Path) -> list[Path]:
    """Writes one sheet per run and, for each domain, the strategies of its first order and seed side by side."""
    paths = []
    all_runs = runs(params)
    for domain in params.domains:
        of_domain = [run for run in all_runs if run.sequence.domain == domain]
        for run in of_domain:
            paths.append(folder / f"{run.file_name}.png")
            paths[-1].write_bytes(to_png(sheet(params, run)))
        first = [r for r in of_domain if r.sequence == of_domain[0].sequence and r.seed == of_domain[0].seed]
        if len(params.tasks) > 1:
            paths.append(folder / f"{domain}-side-by-side.png")
            paths[-1].write_bytes(to_png(side_by_side(params, first)))
    return paths


def concept_pictures(params: Params, sequence: TaskSequence) -> list[ConceptPictures]:
    """The pictures of each concept of a sequence, in its order.

    Raises:
        InputFault: a picture is missing or damaged.
    """
    rows = []
    for task in params.tasks:
        data, images = sequence.data(task.index), sequence.base / "images"
        facts, files = manifest(data), sorted(manifest(images)["files"])
        file = next((name for name in files if name.startswith(f"{task.index}/")), f"{task.index}/00-00.png")
        prompt = facts["concept"]["prompts"][int(Path(file).stem.split("-")[0])]
        reference = open_picture(data, facts["pictures"]["references"][0]["file"])
        name = words(facts["concept"]["name"])
        rows.append(ConceptPictures(name, prompt, reference, open_picture(images, file), file))
    return rows


class Canvas:
    """A white sheet with pictures of one size and text in one typeface."""

    def __init__(self, width: int, height: int, cell: int) -> None:
        self.image = Image.new("RGB", (width, height), "white")
        self.pen = ImageDraw.Draw(self.image)
        self.cell = cell

    def put(self, x: int, y: int, picture: Image.Image | None, framed: bool = False) -> None:
        """Draws a picture with its upper left corner at x, y; a pale square for None."""
        box = (x, y, x + self.cell - 1, y + self.cell - 1)
        if picture is None:
            self.pen.rectangle(box, EMPTY)
            return
        self.image.paste(_fit(picture, self.cell), (x, y))
        if framed:
            outer = (box[0] - FRAME_WIDTH, box[1] - FRAME_WIDTH, box[2] + FRAME_WIDTH, box[3] + FRAME_WIDTH)
            self.pen.rectangle(outer, outline=FRAME, width=FRAME_WIDTH)

    def write(
        self, x: float, y: float, text: str, size: int = 13, bold: bool = False, ink: str = INK, at: str = "lm"
    ) -> None:
        """Writes one line of text; `at` is Pillow's anchor."""
        self.pen.text((x, y), text, ink, font(size, bold), at)


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The typeface of the charts."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(FONTS / name, size, layout_engine=ImageFont.Layout.BASIC)


def cell_of(picture: Image.Image) -> int:
    """The side of a cell in pixels: small pictures are enlarged by a whole factor."""
    side = max(picture.size)
    return side * math.ceil(SMALLEST / side) if side < SMALLEST else min(side, LARGEST)


def _fit(picture: Image.Image, cell: int) -> Image.Image:
    smaller = max(picture.size) < cell
    return ImageOps.fit(picture, (cell, cell), Image.Resampling.NEAREST if smaller else Image.Resampling.LANCZOS)


def wrap(text: str, size: int, width: int) -> list[str]:
    """Breaks a text into lines that fit a width in pixels; a single word that does not fit is shortened."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [cut(line, size, width) for line in lines if line]


def cut(text: str, size: int, width: int) -> str:
    """Shortens a text to a width in pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def sheet(params: Params, run: Run) -> Image.Image:
    """The sheet of one run: a row per concept; columns are a reference, the base model, and the model after each task.

    Cells before a concept was learned are empty.
    """
    rows, tasks = concept_pictures(params, run.sequence), params.positions
    cell = cell_of(rows[0].base)
    step, top = cell + GAP, HEAD
    left = EDGE + LABEL
    first = left + 2 * (step + WIDE_GAP)
    canvas = Canvas(first + len(tasks) * step - GAP + EDGE, top + len(rows) * step - GAP + EDGE, cell)
    canvas.write(EDGE, 34, _name(params, run), 20, bold=True)
    setting = f"{words(run.sequence.domain)} · order {run.sequence.order} · seed {run.seed}"
    note = "one prompt and one noise per row · framed: right after it was learned"
    canvas.write(canvas.image.width - EDGE, 26, setting, 13, ink=QUIET, at="rm")
    canvas.write(canvas.image.width - EDGE, 45, note, 13, ink=QUIET, at="rm")
    heads = [(left, "reference"), (left + step + WIDE_GAP, "base")]
    heads += [(first + k * step, f"after {k + 1}") for k in range(len(tasks))]
    for x, text in heads:
        canvas.write(x + cell / 2, top - 16, text, ink=QUIET, at="mm")
    for row, concept in enumerate(rows):
        y = top + row * step
        _label(canvas, EDGE, y, LABEL - WIDE_GAP, f"{row + 1}  {concept.name}", concept.prompt)
        canvas.put(left, y, concept.reference)
        canvas.put(left + step + WIDE_GAP, y, concept.base)
        for column, index in enumerate(tasks):
            learned = column >= row
            picture = open_picture(run.at(index) / "images", concept.file) if learned else None
            canvas.put(first + column * step, y, picture, framed=column == row)
    return canvas.image


def _name(params: Params, run: Run) -> str:
    return words(regimes.titled(regimes.of(params), run.strategy))


def _label(canvas: Canvas, x: int, y: int, width: int, name: str, prompt: str) -> None:
    lines = wrap(prompt, 11, width)[: max(1, canvas.cell // 18 - 2)]
    height = LINE + 15 * len(lines)
    at = y + (canvas.cell - height) / 2 + LINE / 2
    canvas.write(x, at, cut(name, 13, width), 13, bold=True)
    for number, line in enumerate(lines):
        canvas.write(x, at + LINE + 15 * number, line, 11, ink=QUIET)


def milestones(task: int, tasks: int, most: int = 4) -> list[int]:
    """After which tasks a concept is shown: right after it was learned, at the end, and evenly between."""
    count = min(most, tasks - task + 1)
    steps = [task + (tasks - task) * k / max(1, count - 1) for k in range(count)]
    return [math.floor(step + 0.5) for step in steps]


def side_by_side(params: Params, strategy_runs: list[Run]) -> Image.Image:
    """Forgetting in one picture: the first concepts of a sequence over time, with a row per strategy.

    Args:
        params: the parameters of the study.
        strategy_runs: the runs, all of one sequence and seed.
    """
    tasks = len(params.tasks)
    blocks = concept_pictures(params, strategy_runs[0].sequence)[: min(SIDE_BY_SIDE, tasks - 1)]
    columns = [milestones(task, tasks) for task in range(1, len(blocks) + 1)]
    cell = cell_of(blocks[0].base)
    step, label = cell + GAP, 24 + int(max(font(14, True).getlength(_name(params, run)) for run in strategy_runs))
    top = EDGE + 24 + (24 + cell) + 44  # name, reference and base, heads of the columns
    widths = [max(2, len(after)) * step - GAP for after in columns]
    width = EDGE + label + sum(widths) + 2 * WIDE_GAP * (len(blocks) - 1) + EDGE
    canvas = Canvas(width, top + len(strategy_runs) * step - GAP + EDGE, cell)
    for row, run in enumerate(strategy_runs):
        canvas.write(EDGE, top + row * step + cell / 2, _name(params, run), 14, bold=True)
    x = EDGE + label
    for concept, after, task, wide in zip(blocks, columns, range(1, tasks + 1), widths, strict=False):
        canvas.write(x, EDGE + 8, cut(concept.name, 15, wide), 15, bold=True)
        _head(canvas, x, EDGE + 24, concept, wide)
        for column, index in enumerate(after):
            at = x + column * step
            head = "when learned" if column == 0 else "at the end" if index == tasks else f"after task {index}"
            canvas.write(at + cell / 2, top - 16, head, 12, ink=QUIET, at="mm")
            for row, run in enumerate(strategy_runs):
                picture = open_picture(run.at(f"{index:02d}") / "images", concept.file)
                canvas.put(at, top + row * step, picture, framed=index == task)
        x += wide + 2 * WIDE_GAP
    return canvas.image


def _head(canvas: Canvas, x: int, y: int, concept: ConceptPictures, width: int) -> None:
    """Draws the reference, the base model's picture and, if there is room, the prompt."""
    step = canvas.cell + GAP
    for column, (text, picture) in enumerate((("reference", concept.reference), ("base", concept.base))):
        canvas.write(x + column * step + canvas.cell / 2, y + 10, text, 12, ink=QUIET, at="mm")
        canvas.put(x + column * step, y + 24, picture)
    room = width - 2 * step - 8
    if room >= canvas.cell:
        lines = wrap(f"“{concept.prompt}”", 12, room)[: canvas.cell // 18]
        start = y + 24 + canvas.cell / 2 - 9 * (len(lines) - 1)
        for number, line in enumerate(lines):
            canvas.write(x + 2 * step + 8, start + 18 * number, line, 12, ink=QUIET)
