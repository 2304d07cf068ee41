"""The scorer: one table of scores from metrics that embed and from metrics that do not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stages.core.metric import EmbeddingMetric, Metric
from stages.core.runs import runs
from stages.evaluation.scorer import References, Scorer, references_for
from stages.runtime.faults import ConfigFault
from tests.support import synthetic_study

TASKS = {"01": {"name": "mug", "prompts": ["a mug", "a red mug"]}, "02": {"name": "boot", "prompts": ["a boot"]}}


class Mean(EmbeddingMetric):
    """The direction of the mean colour."""

    encoder: ClassVar[str] = "mean"  # type: ignore[misc]

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        means = torch.stack([torch.tensor(np.asarray(image, np.float32)).mean((0, 1)) for image in images])
        return torch.nn.functional.normalize(means, dim=1)


class Pairs(Metric):
    """Records its calls, and returns one minus the mean distance of mean colours."""

    encoder: ClassVar[str] = "pairs"  # type: ignore[misc]
    calls: ClassVar[list[tuple[int, int, str]]] = []

    def score(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image], prompt: str) -> Tensor:
        self.calls.append((len(pictures), len(references), prompt))
        shown, known = (
            torch.tensor([np.asarray(i, float).mean() for i in images]) for images in (pictures, references)
        )
        return 1 - (shown[:, None] - known[None]).abs().mean(1) / 255


class Wrong(Pairs):
    """Returns wrong scores."""

    answer: ClassVar[list[float]] = []

    def score(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image], prompt: str) -> Tensor:
        return torch.tensor(self.answer)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for task, facts in TASKS.items():
        (tmp_path / task).mkdir()
        for prompt in range(len(facts["prompts"])):
            for noise in range(2):
                picture(10 * int(task) + 2 * prompt + noise).save(tmp_path / task / f"{prompt:02d}-{noise:02d}.png")
    return tmp_path


@pytest.fixture
def references(tmp_path: Path) -> References:
    files, fresh = {}, {}
    for task, facts in TASKS.items():
        shown = [picture(100 * int(task) + i) for i in range(int(task))]
        files[int(task)] = [tmp_path / f"reference-{task}-{i}.png" for i in range(len(shown))]
        for image, file in zip(shown, files[int(task)], strict=True):
            image.save(file)
        fresh[int(task)] = (facts["name"], shown)
    return References(files=files, fresh=fresh)


def test_both_kinds_of_metric_score_every_picture_as_score_does(images: Path, references: References) -> None:
    judges: dict[str, Metric] = {"mean": Mean(), "pairs": Pairs()}
    scorer = Scorer(judges, references)
    scorer.score(images, 2, TASKS)
    rows = [dict(zip(scorer.scores, row, strict=True)) for row in zip(*scorer.scores.values(), strict=True)]
    assert len(rows) == 2 * (4 + 2)
    for row in rows:
        shown = Image.open(images / f"{row['task']:02d}" / f"{row['prompt']:02d}-{row['noise']:02d}.png")
        prompt = TASKS[f"{row['task']:02d}"]["prompts"][row["prompt"]]
        expected = judges[row["metric"]].score([shown], references.fresh[row["task"]][1], prompt)
        assert row["score"] == pytest.approx(float(expected), abs=1e-6)


def test_pictures_are_passed_by_prompt_with_references_of_their_task(images: Path, references: References) -> None:
    Pairs.calls.clear()
    Scorer({"pairs": Pairs()}, references).score(images, 2, TASKS)
    assert Pairs.calls == [(2, 1, "a mug"), (2, 1, "a red mug"), (2, 2, "a boot")]


def test_pictures_of_one_prompt_are_passed_some_at_a_time(
    images: Path, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = (Scorer({"pairs": Pairs(), "mean": Mean()}, references) for _ in range(2))
    whole.score(images, 2, TASKS)
    monkeypatch.setattr("stages.evaluation.scorer.BATCH", 1)
    Pairs.calls.clear()
    parts.score(images, 2, TASKS)
    assert [call[0] for call in Pairs.calls] == [1] * 6
    assert parts.scores == whole.scores
    assert parts.embeddings == whole.embeddings


def test_earlier_references_are_those_of_the_task_before_and_the_new_ones_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters()
    synthetic_study.write(params)
    run = runs(params)[0]
    for task, earlier in (("02", [1]), ("03", [1, 2])):
        found = references_for(params, run, task)
        assert found.vectors["task"] == earlier
        assert list(found.fresh) == [int(task)]
    of_base = references_for(params, run.sequence, None)
    assert not of_base.vectors["task"]
    assert [name for name, _ in of_base.fresh.values()] == list(synthetic_study.NAMES[:3])


def test_only_vectors_of_metrics_that_embed_are_stored(images: Path, references: References) -> None:
    scorer = Scorer({"pairs": Pairs(), "mean": Mean()}, references)
    scorer.score(images, 2, TASKS)
    assert {*scorer.embeddings["encoder"]} == {*scorer.references["encoder"]} == {"mean"}
    assert scorer.encoders == {"pairs": "pairs", "mean": "mean"}


@pytest.mark.parametrize("answer", [[0.5], [0.5, float("nan")], [0.5, 0.5, 0.5]])
def test_a_metric_that_does_not_give_a_finite_number_per_picture_is_named(
    images: Path, references: References, answer: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wrong, "answer", answer)
    with pytest.raises(ConfigFault, match=r"metric pairs: score returned .* one finite number per picture"):
        Scorer({"wrong": Wrong()}, references).score(images, 2, TASKS)


@pytest.mark.parametrize(
    "change",
    [lambda v: 2 * v, lambda v: v / 0, lambda v: v[:1], lambda v: v[0], lambda v: None],
    ids=["longer", "not finite", "one for all", "no rows", "none"],
)
def test_vectors_that_are_no_unit_vectors_are_refused(
    images: Path, references: References, change: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = Mean.embed
    monkeypatch.setattr(Mean, "embed", lambda self, images: change(embed(self, images)))
    with pytest.raises(ConfigFault, match=r"metric mean: embed returned .* one unit vector per picture"):
        Scorer({"mean": Mean()}, references).score(images, 2, TASKS)


def test_a_picture_in_which_a_metric_sees_nothing_scores_0(
    images: Path, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mean, "embed", lambda self, images: torch.zeros(len(images), 3))
    scorer = Scorer({"mean": Mean()}, references)
    scorer.score(images, 2, TASKS)
    assert {*scorer.scores["score"]} == {0.0}


def test_options_that_an_encoder_does_not_name_are_refused(references: References) -> None:
    class Bins(Mean):
        bins: int = 4
        path: str = ""

    Scorer({"one": Bins(), "copy": Bins(path="elsewhere"), "mean": Mean()}, references)
    with pytest.raises(ConfigFault, match=r"score.metrics.fine: has the encoder of one, 'mean', and other options"):
        Scorer({"one": Bins(), "fine": Bins(bins=8)}, references)


def test_reference_pictures_are_copied_into_a_folder_per_task(tmp_path: Path, references: References) -> None:
    references.write(tmp_path / "draft")
    copied = sorted(path.relative_to(tmp_path / "draft").as_posix() for path in (tmp_path / "draft").rglob("*.png"))
    assert copied == ["references/01/00.png", "references/02/00.png", "references/02/01.png"]
