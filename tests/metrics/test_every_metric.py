"""Properties of every registered metric. A metric that needs no weights is covered once it is registered, any other
once params.yaml configures it."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from stages.core.metric import EmbeddingMetric, Metric, metrics
from stages.core.params import load
from stages.metrics import clip_t
from stages.metrics.weights import loading
from stages.runtime.faults import ConfigFault

PROMPT = "a photo of a red star on the beach"
every_metric = pytest.mark.parametrize("name", list(metrics.classes))


@cache
def judges() -> dict[type, Metric]:
    return {type(metric): metric for metric in load().judges.values()}


def make(name: str) -> Metric:
    cls = metrics.classes[name]
    if cls in judges():
        return judges()[cls]
    if any(field.is_required() for field in cls.model_fields.values()):
        pytest.skip("needs weights, and params.yaml does not configure it")
    return metrics.make(name)


def pictures(count: int, width: int = 40, height: int = 40, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    coarse = [Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)) for _ in range(count)]
    return [image.resize((width, height), Image.Resampling.BICUBIC) for image in coarse]


@every_metric
def test_every_picture_gets_one_finite_score(name):
    scores = make(name).score(pictures(5), pictures(3, 52, 36, seed=1), PROMPT)
    assert (scores.shape, scores.dtype, scores.device.type) == ((5,), torch.float64, "cpu")
    assert bool(scores.isfinite().all())


@every_metric
def test_a_score_does_not_depend_on_the_rest_of_the_batch(name):
    metric, shown, references = make(name), pictures(6), pictures(3, seed=1)
    batched = metric.score(shown, references, PROMPT)
    reversed_ = metric.score(shown[::-1], references, PROMPT).flip(0)
    alone = torch.cat([metric.score([picture], references, PROMPT) for picture in shown])
    assert torch.allclose(batched, reversed_, atol=1e-5)
    assert torch.allclose(batched, alone, atol=1e-5)
    assert torch.equal(batched, metric.score(shown, references, PROMPT))


@every_metric
def test_a_picture_is_most_similar_to_itself(name):
    metric, shown = make(name), pictures(6)
    if metric.compares_with != "references":
        pytest.skip("compares with the prompt")
    for index, picture in enumerate(shown):
        assert int(metric.score(shown, [picture], PROMPT).argmax()) == index


@every_metric
def test_it_describes_itself(name):
    metric = make(name)
    assert metric.compares_with in ("references", "prompt")
    assert metric.encoder == metric.encoder != ""
    if "architecture" in type(metric).model_fields:  # another one gives other vectors of the same weights
        assert metric.model_copy(update={"architecture": "other"}).encoder != metric.encoder
    assert metric.recognises == (isinstance(metric, EmbeddingMetric) and metric.compares_with == "references")
    with pytest.raises(ConfigFault, match="unknown key 'no_such_option'"):
        metrics.make(name, {"no_such_option": 1})


@every_metric
def test_an_embedding_metric_gives_unit_vectors(name):
    metric = make(name)
    if not isinstance(metric, EmbeddingMetric):
        pytest.skip("does not embed")
    vectors = [metric.embed(pictures(4, 52, 36))]
    if metric.compares_with == "prompt":
        vectors.append(metric.embed_text([PROMPT, "a cat"]))
    for batch in vectors:
        assert (batch.dtype, batch.device.type, batch.ndim) == (torch.float32, "cpu", 2)
        assert torch.allclose(batch.norm(dim=1), torch.ones(len(batch)), atol=1e-5)
    assert len({batch.shape[1] for batch in vectors}) == 1


@every_metric
def test_the_score_of_an_embedding_metric_is_the_mean_cosine(name):
    metric, shown, references = make(name), pictures(4), pictures(3, seed=1)
    if not isinstance(metric, EmbeddingMetric):
        pytest.skip("does not embed")
    compared = metric.embed(references) if metric.compares_with == "references" else metric.embed_text([PROMPT])
    wanted = [[float(one.double() @ other.double()) for other in compared] for one in metric.embed(shown)]
    assert metric.score(shown, references, PROMPT).tolist() == pytest.approx(np.mean(wanted, 1), abs=1e-6)


@every_metric
def test_many_pictures_and_prompts_are_embedded_in_parts(name, monkeypatch):
    metric, shown = make(name), pictures(5)
    if not isinstance(metric, EmbeddingMetric):
        pytest.skip("does not embed")
    prompts = [f"{PROMPT} {k}" for k in range(5)] if metric.compares_with == "prompt" else []
    whole = [metric.embed(shown), *([metric.embed_text(prompts)] if prompts else [])]
    monkeypatch.setattr(loading, "BATCH", 2)
    monkeypatch.setattr(clip_t, "BATCH", 2)
    parts = [metric.embed(shown), *([metric.embed_text(prompts)] if prompts else [])]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
