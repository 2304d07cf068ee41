"""Which objects are alike by the DINO judge: `python -m data.world.similar` prints the ten most and ten least alike.

Candidates are the designs of one set that the base has never seen, so that none of them has to be held out for it. The
result is in scenes.py as ALIKE_OBJECTS and UNLIKE_OBJECTS.
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
from stages.evaluation.geometry.likeness import choose, likeness, mean_likeness

DRAWN_BY, COUNT = "noto-v1", 10


def measured_likeness(candidates: list[Object]) -> np.ndarray:
    """Mean cosines between the pictures of any two candidates [n, n]."""
    judge = timm.create_model(f"local-dir:{HERE / 'dino'}", pretrained=True).eval()
    prepare, vectors = normaliser(**IMAGENET, device="cpu"), []
    for known in candidates:
        drawn = np.stack([draw(shown.scene) for shown in taught_object(known).references])
        with torch.inference_mode():
            vectors.append(functional.normalize(judge(prepare(floats(torch.from_numpy(drawn)))), dim=1).numpy())
    return likeness(vectors)


if __name__ == "__main__":
    torch.set_num_threads(1)
    objects = [Object("sks", noun, DRAWN_BY) for noun, sets in NOUNS.items() if DRAWN_BY in sets]
    measured = measured_likeness(objects)
    for name, most in (("alike", True), ("unlike", False)):
        some = choose(measured, COUNT, most)
        print(name, f"{mean_likeness(measured, some):.2f}", *(objects[i].noun for i in some))
