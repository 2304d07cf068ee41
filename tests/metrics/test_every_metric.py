"""What holds for every registered metric, whatever it measures. One that needs no weights is covered by being
registered, any other once params.yaml names it."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from stages.core.metric import EmbeddingMetric, Metric, metrics
from stages.core.params import load
from stages.runtime.faults import ConfigFault

PROMPT = "a photo of a red star on the beach"
every_metric = pytest.mark.parametrize("name", list(metrics.classes))


@cache
def judges() -> dict[type, Metric]:
    return {type(metric): metric for metric in load().judges.values()}


def made(name: str) -> Metric:
    cls = metrics.classes[name]
    if cls in judges():
        return judges()[cls]
    if any(field.is_required() for field in cls.model_fields.values()):
        pytest.skip("needs weights, and params.yaml names none")
    return metrics.make(name)


def pictures(count: int, width: int = 40, height: int = 40, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    coarse = [Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)) for _ in range(count)]
    return [image.resize((width, height), Image.Resampling.BICUBIC) for image in coarse]


@every_metric
def test_it_gives_each_picture_one_finite_number(name):
    found = made(name).score(pictures(5), pictures(3, 52, 36, seed=1), PROMPT)
    assert (found.shape, found.dtype, found.device.type) == ((5,), torch.float64, "cpu")
    assert bool(found.isfinite().all())


@every_metric
def test_a_picture_has_its_score_whatever_it_is_scored_with(name):
    metric, shown, references = made(name), pictures(6), pictures(3, seed=1)
    together = metric.score(shown, references, PROMPT)
    turned = metric.score(shown[::-1], references, PROMPT).flip(0)
    alone = torch.cat([metric.score([picture], references, PROMPT) for picture in shown])
    assert torch.allclose(together, turned, atol=1e-5)
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.equal(together, metric.score(shown, references, PROMPT))


@every_metric
def test_higher_is_more_alike(name):
    metric, shown = made(name), pictures(6)
    if metric.compares_with != "references":
        pytest.skip("compares with the prompt")
    for place, picture in enumerate(shown):
        assert int(metric.score(shown, [picture], PROMPT).argmax()) == place


@every_metric
def test_it_says_what_it_is(name):
    metric = made(name)
    assert metric.compares_with in ("references", "prompt")
    assert metric.encoder == metric.encoder != ""
    assert metric.recognises == (isinstance(metric, EmbeddingMetric) and metric.compares_with == "references")
    with pytest.raises(ConfigFault, match="unknown key 'no_such_option'"):
        metrics.make(name, {"no_such_option": 1})


@every_metric
def test_an_embedding_metric_gives_unit_vectors(name):
    metric = made(name)
    if not isinstance(metric, EmbeddingMetric):
        pytest.skip("does not embed")
    vectors = [metric.embed(pictures(4, 52, 36))]
    if metric.compares_with == "prompt":
        vectors.append(metric.embed_text([PROMPT, "a cat"]))
    for found in vectors:
        assert (found.dtype, found.device.type, found.ndim) == (torch.float32, "cpu", 2)
        assert torch.allclose(found.norm(dim=1), torch.ones(len(found)), atol=1e-5)
    assert len({found.shape[1] for found in vectors}) == 1
