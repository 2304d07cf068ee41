"""The metric of face identity, with stand-ins for OpenCV's networks, which are not installed, and without OpenCV."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from stages.core.metric import metric_of
from stages.files import model_lock
from stages.files.pins import write_sums
from stages.metrics import faces as module
from stages.runtime.faults import ConfigFault, InputFault, MachineFault

ENTRY = {"path": "sface.onnx", "detector": "yunet.onnx"}


class Finder:
    """Finds bright squares: a face per bright channel, as YuNet gives them (x, y, width, height, ...)."""

    def setInputSize(self, size):  # noqa: N802
        self.size = size

    def detect(self, pixels):
        assert self.size == (pixels.shape[1], pixels.shape[0])
        found = []
        for channel in range(3):
            rows, columns = np.nonzero(pixels[..., channel] > 128)
            if len(rows):
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1, channel]
                found.append(np.array(box, np.float32))
        return 1, (np.stack(found) if found else None)


class Recogniser:
    """The embedding of a face is the channel it was found in."""

    def alignCrop(self, pixels, face):  # noqa: N802
        return face

    def feature(self, face):
        vector = np.zeros((1, module.WIDTH), np.float32)
        vector[0, int(face[4])] = 7.0
        return vector


@pytest.fixture
def metric(tmp_path, monkeypatch):
    for name in ENTRY.values():
        (tmp_path / name).write_bytes(name.encode())
    fake = SimpleNamespace(
        FaceDetectorYN=SimpleNamespace(create=lambda *_, **__: Finder()),
        FaceRecognizerSF=SimpleNamespace(create=lambda *_: Recogniser()),
    )
    monkeypatch.setitem(sys.modules, "cv2", fake)
    module.load.cache_clear()
    yield metric_of("faces", ENTRY, str(tmp_path))
    module.load.cache_clear()


def picture(*squares) -> Image.Image:
    """Squares (channel in RGB, left, side) on black, 40 x 30."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    for channel, left, side in squares:
        pixels[:side, left : left + side, channel] = 255
    return Image.fromarray(pixels)


def test_the_largest_face_counts_in_opencvs_order_of_colours(metric):
    red, blue, both = picture((0, 0, 8)), picture((2, 0, 8)), picture((0, 0, 8), (2, 20, 12))
    vectors = metric.embed([red, blue, both])
    assert vectors.shape == (3, module.WIDTH)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3))
    assert vectors[0].argmax() == 2  # red is the last of BGR
    assert torch.equal(vectors[2], vectors[1])


def test_a_picture_without_a_face_is_like_nobody(metric):
    scores = metric.score([picture(), picture((0, 0, 8)), picture((1, 0, 8))], [picture((0, 3, 9))], "a person")
    assert scores.tolist() == [0.0, 1.0, 0.0]


def test_its_encoder_names_both_networks_and_how_sure_it_must_be(metric, tmp_path):
    before = metric.encoder
    assert metric_of("faces", {**ENTRY, "sure": 0.9}, str(tmp_path)).encoder != before
    (tmp_path / "other.onnx").write_bytes(b"other")
    assert metric_of("faces", {**ENTRY, "detector": "other.onnx"}, str(tmp_path)).encoder != before


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MachineFault, match=r"needs OpenCV\. Install it: pip install opencv-python-headless"):
        metric_of("faces", ENTRY, str(tmp_path)).embed([picture()])
    with pytest.raises(InputFault, match=r"sface\.onnx: no such file of weights"):
        _ = metric_of("faces", ENTRY, str(tmp_path)).encoder
    with pytest.raises(InputFault, match=r"sface\.pt: is not an \.onnx file"):
        _ = metric_of("faces", {**ENTRY, "path": "sface.pt"}, str(tmp_path)).encoder
    with pytest.raises(ConfigFault, match=r"detector: leads out of score.judges"):
        metric_of("faces", {**ENTRY, "detector": "../yunet.onnx"}, str(tmp_path))


def test_a_network_that_is_not_the_pinned_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace())
    for name in ENTRY.values():
        (tmp_path / name).write_bytes(name.encode())
    write_sums(tmp_path)
    (tmp_path / "yunet.onnx").write_bytes(b"other")
    with pytest.raises(InputFault, match=r"yunet\.onnx: damaged or another file"):
        metric_of("faces", ENTRY, str(tmp_path)).embed([picture()])


def test_both_networks_are_pinned():
    lock = model_lock.read_lock()
    assert [file.sha256 is not None for name in ("judges/sface", "judges/yunet") for file in lock[name].files.values()]
