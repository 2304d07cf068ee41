"""Which objects are alike, as the DINO judge sees it: `python -m data.world.similar` prints ten that
are and ten that are not.

Candidates are the designs of one set that the base has never seen, so that none of them has to be held out for it. What
was printed stands in scenes.py as SIMILAR_OBJECTS and DIVERSE_OBJECTS.
"""

import numpy as np
import timm
import torch
from torch.nn import functional

from data.world.artwork import NOUNS
from data.world.concepts import taught_object
from data.world.draw import draw
from data.world.judges import HERE, IMAGENET, normaliser
from data.world.lessons.damage import floats
from data.world.scenes import Object

DRAWN_BY, COUNT = "noto-v1", 10


def likeness(candidates: list[Object]) -> np.ndarray:
    """Mean cosines between the pictures of any two candidates [n, n]."""
    judge = timm.create_model(f"local-dir:{HERE / 'dino'}", pretrained=True).eval()
    prepare, means = normaliser(**IMAGENET, device="cpu"), []
    for known in candidates:
        drawn = np.stack([draw(shown.scene) for shown in taught_object(known).references])
        with torch.inference_mode():
            means.append(functional.normalize(judge(prepare(floats(torch.from_numpy(drawn)))), dim=1).mean(0))
    together = torch.stack(means)
    return (together @ together.T).numpy()


def chosen(alike: np.ndarray, sign: float) -> list[int]:
    """Ten that are most alike (sign 1) or least (-1): from the best start, one after the other."""
    best: tuple[float, list[int]] = (-np.inf, [])
    for first in range(len(alike)):
        some = [first]
        while len(some) < COUNT:
            gain = sign * alike[some].mean(0)
            gain[some] = -np.inf
            some.append(int(gain.argmax()))
        among = alike[np.ix_(some, some)]
        best = max(best, (sign * float(among[~np.eye(COUNT, dtype=bool)].mean()), some))
    return best[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    objects = [Object("sks", noun, DRAWN_BY) for noun, sets in NOUNS.items() if DRAWN_BY in sets]
    measured = likeness(objects)
    for name, sign in (("similar", 1.0), ("diverse", -1.0)):
        some = chosen(measured, sign)
        off = ~np.eye(COUNT, dtype=bool)
        print(name, f"{measured[np.ix_(some, some)][off].mean():.2f}", *(objects[i].noun for i in some))
