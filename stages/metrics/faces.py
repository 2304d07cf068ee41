"""Identity: whether two pictures show the same face, by SFace (arXiv 2205.12010) on faces that YuNet finds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from stages.core.metric import EmbeddingMetric, metrics
from stages.metrics.weights.loading import check_pins, sha256
from stages.runtime.faults import InputFault, MachineFault

WIDTH = 128  # of an embedding


def opencv() -> Any:
    """OpenCV, which is not installed with this project: only this metric uses it.

    Raises:
        MachineFault: it is missing.
    """
    try:
        import cv2
    except ImportError:
        raise MachineFault("the metric faces needs OpenCV. Install it: pip install opencv-python-headless") from None
    return cv2


def onnx_file(path: str) -> Path:
    """The file of a network, which `make weights` downloads.

    Raises:
        InputFault: it does not exist, is not ONNX, or is not the pinned one.
    """
    file = Path(path)
    if file.suffix != ".onnx":
        raise InputFault(f"{file}: is not an .onnx file. Correct 'path' or 'detector' in score.metrics.")
    if not file.is_file():
        raise InputFault(f"{file}: no such file of weights. Put it there, or correct the metric faces in params.yaml.")
    check_pins(file.parent)
    return file


@lru_cache
def load(path: str, detector: str, sure: float) -> tuple[Any, Any]:
    """OpenCV's detector and recogniser; cached."""
    cv2, finder, recogniser = opencv(), onnx_file(detector), onnx_file(path)
    return (
        cv2.FaceDetectorYN.create(str(finder), "", (320, 320), score_threshold=sure),
        cv2.FaceRecognizerSF.create(str(recogniser), ""),
    )


@metrics.register("faces")
class Faces(EmbeddingMetric):
    """Cosine similarity of SFace's embeddings of the largest face in each picture; 0 where no face is found.

    `path` is SFace and `detector` YuNet, both as ONNX files of OpenCV's model zoo. Two pictures of one person have a
    cosine of 0.363 or more, as OpenCV's documentation has it.
    """

    path: str
    detector: str
    sure: float = Field(0.6, gt=0, lt=1)  # the detector's score from which something is a face

    @property
    def encoder(self) -> str:
        return f"faces {self.sure:g} {sha256(onnx_file(self.path))} {sha256(onnx_file(self.detector))}"

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        finder, recogniser = load(self.path, self.detector, self.sure)
        return torch.stack([self._embedded(finder, recogniser, image) for image in images])

    def _embedded(self, finder: Any, recogniser: Any, image: Image.Image) -> Tensor:
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])  # OpenCV's order is BGR
        finder.setInputSize(image.size)
        _, found = finder.detect(pixels)
        if found is None or not len(found):
            return torch.zeros(WIDTH)
        largest = max(found, key=lambda face: float(face[2] * face[3]))  # width times height
        vector = torch.tensor(recogniser.feature(recogniser.alignCrop(pixels, largest))).flatten().float()
        return torch.nn.functional.normalize(vector, dim=0)
