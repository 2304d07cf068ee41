"""Pictures in styles at large: kinds of restyling with numbers and colours drawn at random, some contents in each."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from data.world.draw import OVERSAMPLING, PLACES, SHAPES, STYLES, Scene, _blocks, _edges, _grey, _ramp, draw
from data.world.lessons.objects import outline
from data.world.loop import CACHE
from data.world.markings import any_colour, any_marking
from data.world.scenes import base_world, place

Array = np.ndarray
Style = Callable[[Array], Array]
GROUPS, KINDS, CONTENTS = 300, 8, 6
FINE = 32 * OVERSAMPLING
KNOWN = tuple(STYLES)


def _lines(rng: np.random.Generator) -> Array:
    """Rows, columns, slanted lines, a grid, a trellis or a weave of pixels, boolean [FINE, FINE]."""
    rows, cols = np.indices((FINE, FINE)) // OVERSAMPLING
    n, width = int(rng.integers(3, 11)), 1 if rng.uniform() < 0.7 else 2
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
    stops = [any_colour(rng) for _ in range(rng.integers(2, 5))]
    stops = sorted(stops, key=sum) if rng.uniform() < 0.7 else stops
    steps = float(rng.choice([1, 1, 51, 85]))
    return lambda p: _ramp(np.round(p / steps) * steps, *stops)


def _outlined(rng: np.random.Generator) -> Style:
    """Edges in ink, of one colour or of two that run into each other, on a sheet that may be ruled."""
    (ink, paper), second, turn = _two_inks(rng), rng.uniform(0, 256, 3), rng.uniform() < 0.4
    sheet = np.where(_lines(rng)[..., None], paper + rng.uniform(-60, 60, 3), paper) if rng.uniform() < 0.5 else paper
    across = np.linspace(0, 1, FINE)[None, :, None] if turn else 0.0
    return lambda p: sheet + _edges(p, OVERSAMPLING)[..., None] * (ink + (second - ink) * across - sheet)


def _tiled(rng: np.random.Generator) -> Style:
    n, gain, gap = int(rng.choice([2, 4, 4, 8])), rng.uniform(0.8, 1.2), any_colour(rng)
    at = np.indices((FINE, FINE)) // OVERSAMPLING % n == n - 1
    between = (at[0] | at[1])[..., None] & (rng.uniform() < 0.75)
    return lambda p: np.where(between, gap, _blocks(p, OVERSAMPLING, n) * gain)


def _dotted(rng: np.random.Generator) -> Style:
    n, (ink, paper), least = int(rng.choice([2, 4, 4, 8])), _two_inks(rng), rng.uniform(0.05, 0.25)
    rows, cols = np.indices((FINE, FINE))
    side = n * OVERSAMPLING
    radius = np.hypot(rows % side - side / 2 + 0.5, cols % side - side / 2 + 0.5) / side
    return lambda p: np.where(
        (radius < least + 0.5 * (1 - _grey(_blocks(p, OVERSAMPLING, n)) / 255))[..., None], ink, paper
    )


def _hatched(rng: np.random.Generator) -> Style:
    rows, cols = np.indices((FINE, FINE)) // OVERSAMPLING
    along = (rows, cols, rows + cols, rows - cols)[int(rng.integers(4))]
    n, (ink, paper), edge = int(rng.integers(3, 7)), _two_inks(rng), rng.uniform(0.4, 1.2)
    return lambda p: np.where(
        ((along % n < np.round((1 - _grey(p) / 255) * n)) | (_edges(p, OVERSAMPLING) > edge))[..., None], ink, paper
    )


def _overlaid(rng: np.random.Generator) -> Style:
    """Lines of a colour, or darker and lighter lines, over a picture that may be tinted, outlined or made vivid."""
    lines, colour, tint = _lines(rng)[..., None], any_colour(rng), rng.uniform(0, 256, 3)
    share = rng.uniform(0.2, 0.6) if rng.uniform() < 0.5 else 0.0
    gain, edge, low = rng.uniform(0.6, 1.6), rng.uniform(0.5, 1.4), rng.uniform(0.4, 0.8)
    opaque = rng.uniform() < 0.5

    def style(p: Array) -> Array:
        p = np.clip((p - 128) * gain + 128, 0, 255) * (1 - share) + tint * share
        p = np.where((_edges(p, OVERSAMPLING) > edge)[..., None], colour, p)
        return np.where(lines, colour if opaque else p * low, p)

    return style


def _recoloured(rng: np.random.Generator) -> Style:
    """Colours exchanged, inverted or shifted."""
    order, signs, shift = rng.permutation(3), rng.choice([-1.0, 1.0], 3), rng.uniform(-70, 70, 3)
    return lambda p: (p[..., order] - 128) * signs + 128 + shift


def _ruled(rng: np.random.Generator) -> Style:
    """A ramp of colours under darker lines."""
    ramp, lines, low = _ramped(rng), _lines(rng)[..., None], rng.uniform(0.4, 0.75)
    return lambda p: ramp(p) * np.where(lines, low, 1.0)


KINDS_OF_STYLE = (_ramped, _outlined, _tiled, _dotted, _hatched, _overlaid, _recoloured, _ruled)


def random_style(rng: np.random.Generator) -> Style:
    return KINDS_OF_STYLE[int(rng.integers(len(KINDS_OF_STYLE)))](rng)


def _content(rng: np.random.Generator) -> Scene:
    scene, _ = next(base_world(rng))
    if rng.uniform() < 0.3:
        scene = replace(scene, shape=str(rng.choice(list(SHAPES))), marking=any_marking(rng))
    return place(replace(scene, style="photo", place=str(rng.choice(list(PLACES)))), rng)


def style_pictures() -> dict[str, Array]:
    """`images` [groups, styles, contents, 32, 32, 3] uint8, in a group the same contents in every style; `outlines`
    [groups, contents, 32, 32, 1] of what is in them; `things` [groups, styles], a number for each style."""
    path = CACHE / f"styles-{GROUPS}.npz"
    if not path.exists():
        rng = np.random.default_rng([GROUPS, 4])
        scenes = [_content(rng) for _ in range(4 * GROUPS)]
        canvases, whole = [draw(s, FINE).astype(float) for s in scenes], [outline(s, 32) for s in scenes]
        images, outlines, things = [], [], []
        for group in range(GROUPS):
            known = rng.choice(len(KNOWN), 2, replace=False)
            styles = [*(lambda p, k=k: STYLES[KNOWN[k]](p, OVERSAMPLING) for k in known)]
            styles += [random_style(rng) for _ in range(KINDS - len(known))]
            chosen = rng.choice(len(canvases), CONTENTS, replace=False)
            images.append([[_coarse(style(canvases[i])) for i in chosen] for style in styles])
            outlines.append([whole[i] for i in chosen])
            things.append([*known, *range(len(KNOWN) + group * KINDS, len(KNOWN) + group * KINDS + KINDS - len(known))])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=np.array(images), outlines=np.array(outlines), things=np.array(things))
    return dict(np.load(path))


def _coarse(fine: Array) -> Array:
    mean = fine.reshape(32, OVERSAMPLING, 32, OVERSAMPLING, 3).mean((1, 3))
    return np.clip(np.round(mean), 0, 255).astype(np.uint8)
