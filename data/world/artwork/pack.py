"""Packs the rendered drawings into one atlas per set: `python pack.py RENDERED_FOLDER`, after render.mjs.

Each drawing is cropped to its visible part and fitted into a square of CELL pixels; squares are in rows, in the order
of the nouns in nouns.json. The square of a noun that a set lacks is transparent.
"""

import json
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
CELL, COLUMNS = 64, 11


def fitted(path: Path) -> Image.Image:
    drawing = Image.open(path).convert("RGBA")
    drawing = drawing.crop(drawing.getchannel("A").point(lambda a: 255 if a > 12 else 0).getbbox())
    scale = CELL / max(drawing.size)
    size = [max(1, round(side * scale)) for side in drawing.size]
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(drawing.resize(size, Image.Resampling.LANCZOS), ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell


def pack(rendered: Path) -> None:
    nouns = json.loads((HERE / "nouns.json").read_text("utf-8"))
    rows = -(-len(nouns) // COLUMNS)
    for name in sorted({name for keys in nouns.values() for name in keys}):
        atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
        for i, (noun, keys) in enumerate(nouns.items()):
            if name in keys:
                file = next((rendered / name).glob(f"{noun.replace(' ', '-')}.*"))
                atlas.paste(fitted(file), (i % COLUMNS * CELL, i // COLUMNS * CELL))
        atlas.save(HERE / f"{name}.png", optimize=True)


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
