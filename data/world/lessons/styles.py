"""Pictures of the same contents in many styles: sets' own, those of the world, and styles drawn at random."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np

from data.world.artwork import NOUNS, SETS
from data.world.draw import PIXELS, Scene, draw
from data.world.lessons.objects import outline
from data.world.places import PLACES
from data.world.recipes.loop import CACHE
from data.world.scenes import HELD_OUT, place
from data.world.styles import STYLES, blocks, edges, grey, ramp
from stages.runtime.process import cores

Array = np.ndarray
Style = Callable[[Array], Array]
KINDS, CONTENTS, CHUNK = 8, 6, 10
BY_SETS, BY_MADE = 5, 1  # of the kinds of a group, others are drawn at random: sets are the hardest to tell apart
MADE = tuple(STYLES)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = rng.integers(0, 256, 3)
    return int(r), int(g), int(b)


def _lines(rng: np.random.Generator) -> Array:
    """Rows, columns, slanted lines, a grid, a trellis or a weave of pixels, boolean [PIXELS, PIXELS]."""
    rows, cols = np.indices((PIXELS, PIXELS))
    n, width = int(rng.integers(3, 17)), 1 if rng.uniform() < 0.6 else 2
    made = (rows, cols, rows + cols, rows - cols)
    kind = int(rng.integers(7))
    if kind < 4:
        return made[kind] % n < width
    if kind == 4:
        return (rows % n < width) | (cols % n < width)
    if kind == 5:
        return ((rows + cols) % n < width) | ((rows - cols) % n < width)
    return (rows // width + cols // width) % 2 == 0


def _two_inks(rng: np.random.Generator) -> tuple[Array, Array]:
    """A dark and a light colour, now and then exchanged."""
    dark, light = rng.uniform(0, 110, 3), rng.uniform(120, 256, 3)
    return (dark, light) if rng.uniform() < 0.8 else (light, dark)


def _ramped(rng: np.random.Generator) -> Style:
    stops = [_colour(rng) for _ in range(rng.integers(2, 5))]
    stops = sorted(stops, key=sum) if rng.uniform() < 0.7 else stops
    steps = float(rng.choice([1, 1, 51, 85]))
    return lambda p: ramp(np.round(p / steps) * steps, *stops)


def _outlined(rng: np.random.Generator) -> Style:
    """Edges in ink, of one colour or of two that run into each other, on a sheet that may be ruled."""
    (ink, paper), second, turn = _two_inks(rng), rng.uniform(0, 256, 3), rng.uniform() < 0.4
    sheet = np.where(_lines(rng)[..., None], paper + rng.uniform(-60, 60, 3), paper) if rng.uniform() < 0.5 else paper
    across = np.linspace(0, 1, PIXELS)[None, :, None] if turn else 0.0
    return lambda p: sheet + edges(p, 1)[..., None] * (ink + (second - ink) * across - sheet)


def _tiled(rng: np.random.Generator) -> Style:
    n, gain, gap = int(rng.choice([2, 4, 4, 8])), rng.uniform(0.8, 1.2), _colour(rng)
    at = np.indices((PIXELS, PIXELS)) % n == n - 1
    between = (at[0] | at[1])[..., None] & (rng.uniform() < 0.75)
    return lambda p: np.where(between, gap, blocks(p, n) * gain)


def _dotted(rng: np.random.Generator) -> Style:
    n, (ink, paper), least = int(rng.choice([4, 4, 8])), _two_inks(rng), rng.uniform(0.05, 0.25)
    rows, cols = np.indices((PIXELS, PIXELS))
    radius = np.hypot(rows % n - n / 2 + 0.5, cols % n - n / 2 + 0.5) / n

    def style(p: Array) -> Array:
        inked = np.clip((least + 0.5 * (1 - grey(blocks(p, n)) / 255) - radius) * n + 0.5, 0, 1)
        return paper + inked[..., None] * (ink - paper)

    return style


def _hatched(rng: np.random.Generator) -> Style:
    rows, cols = np.indices((PIXELS, PIXELS))
    along = (rows, cols, rows + cols, rows - cols)[int(rng.integers(4))]
    n, (ink, paper), edge = int(rng.integers(3, 7)), _two_inks(rng), rng.uniform(0.4, 1.2)
    return lambda p: np.where(
        ((along % n < np.round((1 - grey(p) / 255) * n)) | (edges(p, 1) > edge))[..., None], ink, paper
    )


def _overlaid(rng: np.random.Generator) -> Style:
    """Lines of a colour, or darker and lighter lines, over a picture that may be tinted, outlined or made vivid."""
    lines, colour, tint = _lines(rng)[..., None], _colour(rng), rng.uniform(0, 256, 3)
    share = rng.uniform(0.2, 0.6) if rng.uniform() < 0.5 else 0.0
    gain, edge, low = rng.uniform(0.6, 1.6), rng.uniform(0.5, 1.4), rng.uniform(0.4, 0.8)
    opaque = rng.uniform() < 0.5

    def style(p: Array) -> Array:
        p = np.clip((p - 128) * gain + 128, 0, 255) * (1 - share) + tint * share
        p = np.where((edges(p, 1) > edge)[..., None], colour, p)
        return np.where(lines, colour if opaque else p * low, p)

    return style


def _recoloured(rng: np.random.Generator) -> Style:
    """Colours exchanged, inverted or shifted."""
    order, signs, shift = rng.permutation(3), rng.choice([-1.0, 1.0], 3), rng.uniform(-70, 70, 3)
    return lambda p: (p[..., order] - 128) * signs + 128 + shift


def _ruled(rng: np.random.Generator) -> Style:
    """A ramp of colours under darker lines."""
    toned, lines, low = _ramped(rng), _lines(rng)[..., None], rng.uniform(0.4, 0.75)
    return lambda p: toned(p) * np.where(lines, low, 1.0)


KINDS_OF_STYLE = (_ramped, _outlined, _tiled, _dotted, _hatched, _overlaid, _recoloured, _ruled)


def random_style(rng: np.random.Generator) -> Style:
    return KINDS_OF_STYLE[int(rng.integers(len(KINDS_OF_STYLE)))](rng)


def _contents(rng: np.random.Generator, sets: list[str]) -> list[Scene]:
    """Scenes of things that all of these sets have drawn, by the first set, in the style of photos."""
    able = [n for n, has in NOUNS.items() if all(s in has and (n, s) not in HELD_OUT for s in sets)]
    chosen = rng.choice(able, CONTENTS, replace=False)
    return [place(Scene(str(n), sets[0], str(rng.choice(list(PLACES)))), rng) for n in chosen]


def _group(number: int) -> tuple[Array, Array, list[int]]:
    """Pictures [styles, contents, 64, 64, 3], outlines [styles, contents, 64, 64, 1] and a number for each style."""
    rng = np.random.default_rng([number, 4])
    sets = [str(s) for s in rng.choice(SETS, BY_SETS, replace=False)]
    contents = _contents(rng, sets)
    made = [str(s) for s in rng.choice(MADE, BY_MADE, replace=False)]
    images = [[draw(replace(c, drawn_by=s)) for c in contents] for s in sets]
    canvases = [draw(c).astype(float) for c in contents]
    styles = [partial(STYLES[name], s=1) for name in made]
    styles += [random_style(rng) for _ in range(KINDS - len(sets) - len(made))]
    images += [[np.clip(np.rint(style(c)), 0, 255).astype(np.uint8) for c in canvases] for style in styles]
    outlines = [[outline(replace(c, drawn_by=s)) for c in contents] for s in (*sets, *[sets[0]] * len(styles))]
    known = [*(SETS.index(s) for s in sets), *(len(SETS) + MADE.index(s) for s in made)]
    first = len(SETS) + len(MADE) + number * KINDS
    return np.array(images), np.array(outlines), [*known, *range(first, first + KINDS - len(known))]


def _chunk(number: int) -> list[tuple[Array, Array, list[int]]]:
    return [_group(number * CHUNK + i) for i in range(CHUNK)]


def style_pictures(tens: int) -> dict[str, Array]:
    """Of 10 * `tens` groups: `images` [groups, KINDS, CONTENTS, 64, 64, 3] uint8, in a group the same contents in every
    style; `outlines` [.., 1] of what is in them; `things` [groups, KINDS], a number for each style."""
    path = CACHE / f"styles-{tens}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with get_context("fork").Pool(cores()) as pool:
            groups = [group for chunk in pool.map(_chunk, range(tens), chunksize=1) for group in chunk]
        images, outlines, things = (np.array(values) for values in zip(*groups, strict=True))
        part = path.with_suffix(".part.npz")
        np.savez(part, images=images, outlines=outlines, things=things)
        part.rename(path)
    return dict(np.load(path))
