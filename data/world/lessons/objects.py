"""Pictures of things that are easily taken for one another, with captions that tell them apart."""

from dataclasses import replace

import numpy as np

from data.world.draw import COLOURS, PATTERNS, PLACES, SHAPES, STYLES, Marking, Scene, draw
from data.world.loop import CACHE
from data.world.markings import any_colour, any_marking, describe
from data.world.scenes import WHITE, caption, place

Array = np.ndarray
FAMILIES, MEMBERS, VIEWS, SMALL = 5000, 4, 2, 16


def _pick(rng: np.random.Generator, options: list[str], but: str = "") -> str:
    return str(rng.choice([o for o in options if o != but]))


def _sibling(m: Marking, rng: np.random.Generator) -> Marking:
    """A marking that differs in one respect, or in all."""
    kind = rng.uniform()
    if kind < 0.4:
        return replace(m, pattern=_pick(rng, list(PATTERNS)[1:], but=m.pattern))
    if kind < 0.6:
        return replace(m, colours=tuple(any_colour(rng) for _ in m.colours))
    if kind < 0.75:
        return replace(m, border=any_colour(rng), spot=None if m.spot else any_colour(rng))
    return any_marking(rng)


def _plain(m: Marking, rng: np.random.Generator) -> Marking:
    """What the class looks like in the base's world, half of the time in the colour nearest to the marking's."""
    colour = COLOURS[_pick(rng, list(COLOURS))]
    if rng.uniform() < 0.5:
        colour = min(COLOURS.values(), key=lambda c: sum((a - b) ** 2 for a, b in zip(c, m.colours[0], strict=True)))
    pattern = str(rng.choice(["plain", "striped", "spotted"], p=[0.76, 0.12, 0.12]))
    return Marking(pattern, (colour,) if pattern == "plain" else (colour, WHITE))


def family(rng: np.random.Generator) -> list[Scene]:
    """Four things that are easily taken for one another: most often one marking on three shapes, which are the hardest
    to tell apart, and one of the shapes with another marking or with none."""
    shape, second, third = (str(s) for s in rng.permutation(list(SHAPES))[:3])
    m = any_marking(rng)
    if rng.uniform() < 0.15:  # the same in other styles
        styles = [str(s) for s in rng.permutation([s for s in STYLES if s != "photo"])[:2]]
        thing = Scene(shape, m if rng.uniform() < 0.5 else _plain(m, rng), style=styles[0])
        return [thing, replace(thing, shape=second), replace(thing, style=styles[1]), replace(thing, style="photo")]
    last = _plain(m, rng) if rng.uniform() < 0.5 else _sibling(m, rng)
    return [Scene(shape, m), Scene(second, m), Scene(third, m), Scene(shape, last)]


def _captions(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """All there is to say about a scene, and less: a rare word for the marking, or no word of it or of the place."""
    short = str(rng.choice([f"a {scene.shape}", f"a sks {scene.shape}", f"sks {scene.shape}", describe(scene)]))
    where = None if short == describe(scene) or rng.uniform() < 0.1 else scene.place
    return caption(scene.style, describe(scene), scene.place), caption(scene.style, short, where)


def outline(scene: Scene, pixels: int) -> Array:
    """Where the thing is, uint8 [pixels, pixels, 1], 255 where it is and 0 elsewhere."""
    axis = (np.arange(pixels) + 0.5) / pixels * 2 - 1
    x, y = np.meshgrid((axis - scene.x) / scene.size, (axis - scene.y) / scene.size)
    cos, sin = np.cos(scene.angle), np.sin(scene.angle)
    return SHAPES[scene.shape](cos * x + sin * y, sin * x - cos * y)[..., None].astype(np.uint8) * 255


def upright(thing: Scene) -> Array:
    """The thing itself, upright and large, without a place: red, green, blue and outline, uint8 [SMALL, SMALL, 4]."""
    scene = replace(thing, place="studio", x=0.0, y=0.0, size=0.95, angle=0.0)
    there = outline(scene, SMALL)
    return np.concatenate([np.where(there > 0, draw(scene, SMALL), 128).astype(np.uint8), there], -1)


def family_pictures() -> dict[str, Array]:
    """Everything about FAMILIES families, by name.

    `images` [families, members, views, 32, 32, 3] uint8 and `outlines` [.., 1] of the thing in them; `captions`
    [families, members, views, 2]; `things` [families, members], a number that two members share only if they look the
    same; `upright` [families, members, SMALL, SMALL, 4]; `shapes`, their place in draw's list.
    """
    path = CACHE / f"families-{FAMILIES}.npz"
    if not path.exists():
        rng, known = np.random.default_rng([FAMILIES, 3]), {}
        out: dict[str, list] = {k: [] for k in ("images", "outlines", "captions", "things", "upright", "shapes")}
        for thing in (s for _ in range(FAMILIES) for s in family(rng)):
            views = [place(replace(thing, place=_pick(rng, list(PLACES))), rng) for _ in range(VIEWS)]
            out["images"].append([draw(v) for v in views])
            out["outlines"].append([outline(v, 32) for v in views])
            out["captions"].append([_captions(v, rng) for v in views])
            out["things"].append(known.setdefault(thing, len(known)))
            out["upright"].append(upright(thing))
            out["shapes"].append(list(SHAPES).index(thing.shape))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{k: np.array(v).reshape(FAMILIES, MEMBERS, *np.shape(v)[1:]) for k, v in out.items()})
    return dict(np.load(path))
