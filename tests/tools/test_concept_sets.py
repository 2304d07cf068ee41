"""Sets made by measured similarity, and the profile whose sets they are."""

from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest

from stages.core import params
from stages.core.dataset import facts_of
from stages.files.undo import RECORD, Reversible
from stages.runtime.faults import ConfigFault
from stages.tools import profiles
from stages.tools.concept_sets import concept_sets
from tests.support.workspace import change, workspace

FOUR = ("sks_owl", "zwz_robot", "sbu_backpack", "uwu_snail")


def arguments(**given) -> Namespace:
    return Namespace(**({"domain": None, "count": None, "metric": None, "write": False} | given))


def listed(tree) -> dict[str, set[str]]:
    return {domain: {*orders["0"].values()} for domain, orders in tree.sequences.items()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = workspace(tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


def test_what_the_tool_measures_and_writes_is_a_study_of_both_sets(here, capsys):
    """Of the objects of a study with four tasks and two orders."""
    like = profiles.params("orthogonality")
    change(here, tasks=[task.model_dump() for task in like.tasks], orders=["0", "1"])
    some = dict(zip(like.sequences["alike"]["0"], FOUR, strict=True))
    change(here, sequences={"objects": {order: dict(some) for order in "01"}})
    Path("params.yaml").write_bytes(Path("params.yaml").read_bytes().replace(b"\n", b"\r\n"))
    before = Path("params.yaml").read_bytes()
    killed = Reversible(before.decode(), f"# half made\r\n{before.decode()}")
    killed.make(Path("data/photos/cup"))
    Path("data/photos/cup").mkdir(parents=True)
    Path("params.yaml").write_bytes(killed.after.encode())
    concept_sets(params.load(), None, arguments(write=True))
    assert not Path("data/photos/cup").exists()
    assert not RECORD.exists()
    assert b"half made" not in Path("params.yaml").read_bytes()
    text, written = Path("params.yaml").read_bytes(), params.load()
    assert text.count(b"\r\n") == text.count(b"\n")  # the file keeps its line ends
    assert written.domains == ("similar", "diverse")
    assert written.dataset.options["subsets"] == {"similar": "objects", "diverse": "objects"}
    assert listed(written)["similar"] != listed(written)["diverse"]
    for orders in written.sequences.values():  # each concept at each of as many positions as there are orders
        assert {*orders["0"].values()} == {*orders["1"].values()}
        assert list(orders["0"].values())[1:] == list(orders["1"].values())[:-1]
    rows = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[2:4]}
    assert rows["similar"] > 0.1 > 0 > rows["diverse"]
    concept = written.concepts("similar", "0")["01"]
    assert facts_of(concept) == facts_of(written.data.concept("objects", concept.name))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": 1}, r"--count 1: must be from 2 to 10, the number of objects\."),
        ({"count": 3, "write": True}, r"--count 3: with --write it must be the number of tasks, 2\."),
        ({"metric": "clip_t"}, r"--metric clip_t: does not embed pictures to compare them\. .*clip_i"),
        ({"domain": "object"}, r"--domain object: the dataset has no such domain\. Did you mean 'objects'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_embedded(here, given, said):
    before = Path("params.yaml").read_bytes()
    with pytest.raises(ConfigFault, match=said):
        concept_sets(params.load(), None, arguments(**given))
    assert Path("params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("subsets", "domain", "said"),
    [
        ({"styles": "objects"}, "objects", r"dataset: subsets: styles: is a domain of the dataset already"),
        ({"few": "object"}, "few", r"dataset: subsets: few: the dataset has no domain 'object'\. Did you mean"),
        ({"few": "objects"}, "fewer", r"no domain 'fewer'\. Did you mean 'few'"),
    ],
)
def test_a_subset_that_cannot_be_is_refused_by_name(here, subsets, domain, said):
    change(here, dataset={"options": {"subsets": subsets}}, domains=[domain])
    change(here, sequences={domain: {"0": {"t01": "sks_owl", "t02": "zwz_robot"}}})
    with pytest.raises(ConfigFault, match=said):
        params.load()


def test_a_subset_is_the_same_pictures_and_words(here):
    change(here, dataset={"options": {"subsets": {"few": "objects"}}}, domains=["few"])
    change(here, sequences={"few": {"0": {"t01": "sks_owl", "t02": "zwz_robot"}}})
    study = params.load()
    assert Counter(c.name for c in study.concepts("few", "0").values()) == Counter(["sks_owl", "zwz_robot"])
    assert study.data.names("few") == study.data.domains()["objects"]
