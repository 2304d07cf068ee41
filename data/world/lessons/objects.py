"""Pictures of things that are easily confused, with captions that distinguish them."""

from dataclasses import replace
from functools import cache
from multiprocessing import get_context

import numpy as np
from PIL import Image

from data.world.artwork import NOUNS, SETS, colour, drawing
from data.world.draw import PIXELS, Scene, draw, thing
from data.world.places import PLACES
from data.world.recipes.loop import CACHE
from data.world.scenes import BASE_STYLES, HELD_OUT, STYLES, TUNING_STYLES, caption, place
from stages.runtime.process import cores

Array = np.ndarray
MEMBERS, VIEWS, SMALL, CHUNK = 4, 2, 16, 100
INKS = 6
DESIGNS = [(noun, name) for noun, sets in NOUNS.items() for name in sets if (noun, name) not in HELD_OUT]
NAMED_STYLES = [style.name for style in (*STYLES, *TUNING_STYLES) if not style.drawn_by] + list(BASE_STYLES[1:])


def _inks(cell: Array) -> tuple[Array, Array, Array]:
    """The main colours of a drawing [CELL, CELL, 4], most used first [k, 3]; where it is solid [CELL, CELL]; and which
    of the colours each solid pixel has."""
    solid = cell[..., 3] > 0
    flat = Image.fromarray(cell[solid][None, :, :3]).quantize(INKS, Image.Quantize.MEDIANCUT)
    which = np.asarray(flat)[0]
    counts = np.bincount(which, minlength=INKS)
    means = np.stack([cell[solid][which == i, :3].mean(0) if counts[i] else np.zeros(3) for i in range(INKS)])
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(INKS, int)
    rank[order] = np.arange(INKS)
    return means[order], solid, rank[which]


@cache
def dressed(design: tuple[str, str], colours_of: tuple[str, str]) -> Image.Image:
    """One thing in the colours of another."""
    cell = np.asarray(drawing(*design).convert("RGBA")).copy()
    own, solid, which = _inks(cell)
    wanted, _, _ = _inks(np.asarray(drawing(*colours_of).convert("RGBA")))
    detail = cell[solid][:, :3] - own[which]
    cell[solid, :3] = np.clip(wanted[which] + 0.6 * detail, 0, 255)
    return Image.fromarray(cell).convert("RGBa")


def _any_design(rng: np.random.Generator, *, of: str = "", but: str = "") -> tuple[str, str]:
    able = [d for d in DESIGNS if d[0] != but and (not of or d[0] == of)]
    return able[rng.integers(len(able))]


Member = tuple[Scene, tuple[str, str] | None]  # a thing, and whose colours it wears


def family(rng: np.random.Generator) -> list[Member]:
    """A thing, another design of it, another thing in its colours; itself in a style or colours; or a stranger."""
    noun, drawn_by = _any_design(rng)
    second = _any_design(rng, of=noun)
    other = _any_design(rng, but=noun)
    first = Scene(noun, drawn_by)
    members: list[Member] = [(first, None), (Scene(*second), None), (Scene(*other), (noun, drawn_by))]
    kind = rng.uniform()
    if kind < 0.25:
        return [*members, (replace(first, style=str(rng.choice(NAMED_STYLES))), None)]
    if kind < 0.6:
        return [*members, (first, _any_design(rng, but=noun))]
    return [*members, (Scene(*_any_design(rng, but=noun)), None)]


def _cell(member: Member) -> Image.Image | None:
    scene, colours_of = member
    return dressed((scene.noun, scene.drawn_by), colours_of) if colours_of else None


def _captions(member: Member, scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """The full caption of a scene, and a shorter one: with a rare word for the design, or without the place."""
    noun, plain = scene.noun, member[1] is None and scene.style not in ("grey",)
    full = f"{colour(noun, scene.drawn_by)} {noun}" if plain and rng.uniform() < 0.5 else noun
    short = str(rng.choice([noun, f"sks {noun}"]))
    where = scene.place if rng.uniform() < 0.6 else None
    own = {s.drawn_by: s.name for s in STYLES if s.drawn_by}.get(scene.drawn_by)
    style = own if own and scene.style == "photo" and rng.uniform() < 0.3 else scene.style
    return caption(style, full, scene.place), caption(scene.style, short, where)


def outline(scene: Scene, pixels: int = PIXELS) -> Array:
    """Where the thing is, uint8 [pixels, pixels, 1], 255 where it is and 0 elsewhere."""
    return thing(scene, pixels)[..., 3:]


def upright(member: Member) -> Array:
    """The thing itself, upright and large, without a place: red, green, blue and outline, uint8 [SMALL, SMALL, 4]."""
    scene, cell = replace(member[0], place="studio", size=1.0), _cell(member)
    there = thing(scene, SMALL)[..., 3:]
    shown = np.asarray(Image.fromarray(draw(scene, PIXELS, cell)).resize((SMALL, SMALL), Image.Resampling.BOX))
    return np.concatenate([np.where(there > 60, shown, 128).astype(np.uint8), there], -1)


def _number(member: Member) -> int:
    """A number that two members share only if they look the same."""
    scene, colours_of = member
    of = list(NOUNS).index(scene.noun) * len(SETS) + SETS.index(scene.drawn_by)
    wears = 1 + list(NOUNS).index(colours_of[0]) * len(SETS) + SETS.index(colours_of[1]) if colours_of else 0
    style = 0 if scene.style == "photo" else 1 + NAMED_STYLES.index(scene.style)
    return (of * 1000 + wears) * 100 + style


def _chunk(number: int) -> dict[str, list]:
    rng = np.random.default_rng([number, 3])
    out: dict[str, list] = {k: [] for k in ("images", "outlines", "captions", "things", "upright", "nouns")}
    for member in (m for _ in range(CHUNK) for m in family(rng)):
        places = rng.permutation(list(PLACES))[:VIEWS]
        views = [place(replace(member[0], place=str(where)), rng) for where in places]
        out["images"].append([draw(v, PIXELS, _cell(member)) for v in views])
        out["outlines"].append([outline(v) for v in views])
        out["captions"].append([_captions(member, v, rng) for v in views])
        out["things"].append(_number(member))
        out["upright"].append(upright(member))
        out["nouns"].append(list(NOUNS).index(member[0].noun))
    return out


def family_pictures(hundreds: int) -> dict[str, Array]:
    """Everything about 100 * `hundreds` families, by name.

    `images` [families, members, views, 64, 64, 3] uint8 and `outlines` [.., 1] of the thing in them; `captions`
    [families, members, views, 2]; `things` [families, members], a number that two members share only if they look the
    same; `upright` [families, members, SMALL, SMALL, 4]; `nouns`, their place among NOUNS.
    """
    path = CACHE / f"families-{hundreds}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with get_context("fork").Pool(cores()) as pool:
            chunks = pool.map(_chunk, range(hundreds), chunksize=1)
        joined = {k: np.array([x for chunk in chunks for x in chunk[k]]) for k in chunks[0]}
        part = path.with_suffix(".part.npz")
        np.savez(part, **{k: v.reshape(hundreds * CHUNK, MEMBERS, *v.shape[1:]) for k, v in joined.items()})
        part.rename(path)
    return dict(np.load(path))
