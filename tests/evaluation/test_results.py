"""Reading a study: every score gets its index; missing, foreign and damaged files are refused by name."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.evaluation import ceiling
from stages.evaluation.results import MARGIN, OWN, TOP1, identity, load, merge_checks
from stages.files import artifact, tables
from stages.runtime.faults import InputFault
from tests.support import synthetic_study

SCORES = Path("runs/small/objects/0/naive/0/03/scores")


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters()
    synthetic_study.write(params)
    return params


def alter(folder: Path, name: str, change) -> None:
    """Publishes a folder again with one table changed."""
    manifest = artifact.read(folder, "scores")
    saved = {path.name: pq.read_table(path) for path in artifact.files_of(folder)}
    saved[name] = change(saved[name])
    with artifact.publish(folder, "scores", {"encoders": manifest["encoders"]}) as draft:
        for file, table in saved.items():
            pq.write_table(table, draft / file)


def without(table: pa.Table, **values: object) -> pa.Table:
    """The rows that differ from these values."""
    mask = np.ones(table.num_rows, bool)
    for name, value in values.items():
        mask &= np.array([x == value for x in table[name].to_pylist()])
    return table.filter(pa.array(~mask))


def test_every_score_has_its_index(params) -> None:
    results = load(params, "objects")
    own = results.measured["looks"][OWN]
    assert own.shape == (2, 1, 4, 3, 4)
    assert results.names == synthetic_study.NAMES[:3]
    assert results.labels == ("red mug", "blue boot", "green bear")
    rows = tables.read(SCORES / "scores.parquet", tables.SCORES).to_pylist()
    for row in rows:
        if row["metric"] == "looks":
            picture = 2 * row["prompt"] + row["noise"]
            assert own[0, 0, 3, row["task"] - 1, picture] == row["score"]


def test_the_base_is_shared_and_later_tasks_are_nan(params) -> None:
    own = load(params, "objects").measured["looks"][OWN]
    assert (own[0, :, 0] == own[1, :, 0]).all()
    assert not np.isnan(own[:, :, 0]).any()
    assert np.isnan(own[:, :, 1, 1:]).all()
    assert not np.isnan(own[:, :, 3]).any()


def test_only_metrics_with_references_recognise_concepts(params) -> None:
    measured = load(params, "objects").measured
    assert set(measured["looks"]) == {OWN, MARGIN, TOP1}
    assert set(measured["prompted"]) == {OWN}


def test_the_similarity_to_the_own_concept_is_the_score(params) -> None:
    """Score and identity come from different files; for metrics with references they must agree."""
    results = load(params, "objects")
    vectors = tables.read(SCORES / "embeddings.parquet", tables.EMBEDDINGS).to_pylist()
    references = np.array([synthetic_study.direction(name) for name in results.names])
    for row in vectors:
        similar = references @ np.array(row["vector"])
        own = similar[row["task"] - 1]
        place = (0, 0, 3, row["task"] - 1, 2 * row["prompt"] + row["noise"])
        assert results.measured["looks"][OWN][place] == pytest.approx(own, abs=1e-6)
        others = np.delete(similar, row["task"] - 1).mean()
        assert results.measured["looks"][MARGIN][place] == pytest.approx(own - others, abs=1e-6)
        assert results.measured["looks"][TOP1][place] == (own == similar.max())


def test_identity_of_two_pictures_computed_by_hand() -> None:
    references = np.eye(3)
    margin, top1 = identity([np.array([0.8, 0.6, 0.0]), np.array([0.8, 0.6, 0.0])], np.array([0, 1]), references)
    assert margin == pytest.approx([0.8 - 0.3, 0.6 - 0.4])
    assert top1.tolist() == [1, 0]


def test_a_picture_is_recognised_if_it_is_closest_to_its_own_concept_alone() -> None:
    pictures = [np.array([-0.6, -0.8]), np.array([-0.6, -0.8]), np.array([0.5**0.5, 0.5**0.5])]
    margin, top1 = identity(pictures, np.array([0, 1, 0]), np.eye(2))
    assert margin == pytest.approx([0.2, -0.2, 0.0])
    assert top1.tolist() == [1, 0, 0], "also where all are unlike it; a tie does not count"


def test_a_concept_is_the_mean_of_its_references_by_the_metrics_encoder(params) -> None:
    """Another reference picture of each concept, and the same pictures by another encoder."""
    folder = Path("runs/small/objects/0/base/scores")
    before = load(params, "objects").measured["looks"][MARGIN]

    def more(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        rows += [{**row, "picture": 1, "vector": [-x / 2 for x in row["vector"]]} for row in rows]
        rows += [{**row, "encoder": "looks 0", "vector": [5 * x for x in row["vector"]]} for row in rows]
        return pa.Table.from_pylist(rows, tables.REFERENCES)

    alter(folder, "references.parquet", more)
    after = load(params, "objects").measured["looks"][MARGIN]
    np.testing.assert_allclose(after, before / 4, atol=1e-6)


def test_identity_of_the_only_concept_is_undefined() -> None:
    margin, _ = identity([np.array([1.0, 0.0])], np.array([0]), np.eye(2)[:1])
    assert np.isnan(margin).all()


def test_the_ceiling_is_that_of_each_concepts_references(params) -> None:
    """Also where the base was scored on positions that params.yaml no longer has."""
    folder, results = Path("runs/small/objects/0/base/scores"), load(params, "objects")
    assert ceiling.read(params, results) == {}, "a single reference has no other one"

    def more(table: pa.Table) -> pa.Table:
        rows = [{**row, "picture": 1, "vector": row["vector"][::-1]} for row in table.to_pylist()]
        return pa.concat_tables([table, pa.Table.from_pylist(rows, tables.REFERENCES)])

    alter(folder, "references.parquet", more)
    vectors = [synthetic_study.direction(name) for name in results.names]
    found = ceiling.read(params, results)
    assert set(found) == {"looks"}
    assert found["looks"]["average_score"] == pytest.approx([v @ v[::-1] for v in vectors], abs=1e-6)
    shorter = synthetic_study.parameters(tasks=2)
    found = ceiling.read(shorter, load(shorter, "objects"))["looks"]["average_score"]
    assert found == pytest.approx([v @ v[::-1] for v in vectors[:2]], abs=1e-6)


def test_missing_folders_are_counted_and_named(params) -> None:
    for task in ("02", "03"):
        (SCORES.parent.parent / task / "scores/manifest.json").unlink()
    with pytest.raises(
        InputFault, match=r"scores missing \(2\): objects/0/naive/0 after task 02; .*03\. Run dvc repro"
    ):
        load(params, "objects")


def test_long_lists_of_missing_scores_are_shortened(params) -> None:
    for path in Path("runs").rglob("scores/manifest.json"):
        path.unlink()
    with pytest.raises(InputFault, match=r"^scores missing \(7\): objects/0/base; .*; and 4 more\."):
        load(params, "objects")


def test_missing_cells_are_named(params) -> None:
    alter(SCORES, "scores.parquet", lambda t: without(t, task=2, metric="looks"))
    with pytest.raises(InputFault, match=r"cells missing \(1\): objects/0/naive/0 after task 03: looks on task 02\."):
        load(params, "objects")


def test_one_missing_picture_is_a_missing_cell(params) -> None:
    alter(SCORES, "scores.parquet", lambda t: without(t, task=1, metric="prompted", prompt=1, noise=0))
    with pytest.raises(InputFault, match="prompted on task 01"):
        load(params, "objects")


def test_the_newest_task_and_all_of_the_base_must_have_scores(params) -> None:
    alter(SCORES, "scores.parquet", lambda t: without(t, task=3, metric="looks"))
    with pytest.raises(InputFault, match="looks on task 03"):
        load(params, "objects")
    alter(SCORES.parents[2] / "0/01/scores", "scores.parquet", lambda t: without(t, task=1, metric="looks"))
    with pytest.raises(InputFault, match=r"cells missing \(2\): objects/0/naive/0 after task 01: looks on task 01"):
        load(params, "objects")


def test_missing_embeddings_are_named(params) -> None:
    alter(SCORES, "embeddings.parquet", lambda t: without(t, task=1))
    with pytest.raises(InputFault, match=r"looks \(embeddings\) on task 01"):
        load(params, "objects")


def test_a_task_that_sees_all_must_have_all(params) -> None:
    seeing = synthetic_study.parameters(sees_all=True)
    with pytest.raises(InputFault, match=r"after task 01: looks on task 02"):
        load(seeing, "objects")


def test_a_study_that_sees_all_has_every_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(sees_all=True)
    synthetic_study.write(params)
    assert not np.isnan(load(params, "objects").measured["looks"][OWN]).any()


def test_a_damaged_file_is_refused(params) -> None:
    path = SCORES / "scores.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputFault, match="damaged"):
        load(params, "objects")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"names": ("blue_boot", "red_mug", "green_bear")}, "task 1 is red_mug, in params.yaml it is blue_boot"),
        ({"noises": 3}, r"has 2 noises, sample\.images is 3\."),
    ],
)
def test_scores_of_other_parameters_are_refused(params, other: dict, words: str) -> None:
    with pytest.raises(InputFault, match=words):
        load(synthetic_study.parameters(**other), "objects")


def test_scores_after_another_task_are_refused(params) -> None:
    alter(SCORES, "scores.parquet", lambda t: t.set_column(0, "after", pa.array([2] * t.num_rows, pa.int16())))
    with pytest.raises(InputFault, match="holds scores after task 2, expected 3"):
        load(params, "objects")


def test_pictures_that_the_base_lacks_are_refused(params) -> None:
    alter(SCORES, "scores.parquet", lambda t: t.set_column(4, "noise", pa.array([7] * t.num_rows, pa.int16())))
    with pytest.raises(InputFault, match="that the base model does not have"):
        load(params, "objects")


def test_orders_are_read_by_position_and_map_to_concepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters(orders=("0", "5"), seeds=(0, 1))
    synthetic_study.write(params)
    results = load(params, "objects")
    assert results.runs == (("0", 0), ("0", 1), ("5", 0), ("5", 1))
    assert results.concepts.tolist() == [[0, 1, 2], [0, 1, 2], [1, 2, 0], [1, 2, 0]]
    assert results.labels == ("task 1", "task 2", "task 3")
    base = results.measured["looks"][OWN][:, :, 0]
    assert (base[:, 0] == base[:, 1]).all()
    assert (base[:, 0] != base[:, 2]).any()


def test_merge_checks_are_collected(params) -> None:
    path = Path("runs/small/objects/0/naive/0/01/state/check.json")
    path.write_text(json.dumps({"relative_error": 0.5, "survival": {"float16": 1}, "words": "omitted"}), "utf-8")
    rows = merge_checks(params)
    assert len(rows) == 6
    place = {"domain": "objects", "strategy": "naive", "order": "0", "seed": 0, "task": 1}
    assert rows[0] == {**place, "relative_error": 0.5, "survival.float16": 1.0}
