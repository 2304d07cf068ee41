import json
import logging
from argparse import Namespace
from pathlib import Path

import pytest
from PIL import Image

from stages.core.params import Params, PlugIn, Prepare, Task
from stages.core.runs import TaskSequence
from stages.files import artifact
from stages.photos.develop import read_data
from stages.prepare import prepare
from stages.runtime.faults import InputFault

SEQUENCE = TaskSequence("small", "objects", "0")


def parameters(concepts: list[str], dataset: str = "toy", source: str = "", resolution: int = 32) -> Params:
    positions = [f"{i:02d}" for i in range(1, len(concepts) + 1)]
    return Params.model_construct(
        source=source,
        tasks=tuple(Task(index=i, previous=f"{int(i) - 1:02d}", sees=f"data/{i}") for i in positions),
        sequences={"objects": {"0": {f"t{i}": name for i, name in zip(positions, concepts, strict=True)}}},
        dataset=PlugIn(name=dataset),
        prepare=Prepare(resolution=resolution),
    )


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def prepared(params: Params, task: str = "01") -> Path:
    prepare(params, SEQUENCE, Namespace(task=task))
    return SEQUENCE.data(task)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def photos(folder: Path, *colours: str) -> None:
    folder.mkdir(parents=True)
    for number, colour in enumerate(colours):
        picture = Image.new("RGB", (40, 30), colour)
        picture.paste("white", (5 * number, 5, 5 * number + 15, 20))
        picture.save(folder / f"{number}.jpg")


def test_pictures_and_manifest_are_written(tmp_path):
    folder = prepared(parameters(["sks_owl", "zwz_robot"]), "02")
    facts, training, references = read_data(folder)
    assert folder == Path("runs/small/objects/0/data/02")
    assert (facts["domain"], facts["order"], facts["position"], facts["resolution"]) == ("objects", "0", 2, 32)
    assert facts["concept"]["name"] == "zwz_robot"
    assert facts["concept"]["prompts"][0] == "a photo of a zwz robot on the beach"
    assert set(facts["concept"]) == {"name", "token", "noun", "training_prompt", "prompts", "plain_prompts"}
    assert [image.size for image in training] == [(32, 32)] * 5
    assert len(references) == 10
    assert not {image.tobytes() for image in references} & {image.tobytes() for image in training}
    pictures = [f"references/{i:02d}.png" for i in range(10)] + [f"training/{i:02d}.png" for i in range(5)]
    assert sorted(facts["files"]) == pictures


def test_two_runs_give_the_same_bytes():
    params = parameters(["sks_owl"])
    first = contents(prepared(params))
    assert contents(prepared(params)) == first


def test_a_manifest_does_not_depend_on_other_tasks(tmp_path):
    photos(tmp_path / "photos" / "mug", "red", "blue")
    photos(tmp_path / "photos" / "cup", "red", "green")
    alone = contents(prepared(parameters(["mug"], "folder", "photos")))
    third = prepared(parameters(["cup", "mug"], "folder", "photos"), "02")
    for name, data in contents(third).items():
        if name.endswith(".png"):
            assert data == alone[name]
    first, second = (json.loads(c["manifest.json"])["pictures"] for c in (alone, contents(third)))
    assert first == second


def test_the_output_contains_no_path_of_this_machine(tmp_path):
    photos(tmp_path / "photos" / "mug", "red")
    for data in contents(prepared(parameters(["mug"], "folder", str(tmp_path / "photos")))).values():
        assert str(tmp_path).encode() not in data


def test_duplicates_cause_warnings(tmp_path, caplog):
    photos(tmp_path / "photos" / "mug", "red")
    photos(tmp_path / "photos" / "cup", "red")
    with caplog.at_level(logging.INFO):
        prepared(parameters(["cup", "mug"], "folder", "photos"), "02")
    assert "02 mug: 0.jpg: the same file as cup/0.jpg" in caplog.text
    assert "02 mug: 1 training pictures, 1 references" in caplog.text


def test_bad_photos_change_nothing(tmp_path):
    photos(tmp_path / "photos" / "mug", "red", "blue")
    params = parameters(["mug"], "folder", "photos")
    before = contents(prepared(params))
    (tmp_path / "photos" / "mug" / "1.jpg").write_bytes(b"")
    (tmp_path / "photos" / "mug" / "2.jpg").write_bytes(b"text")
    with pytest.raises(InputFault) as caught:
        prepared(params)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["photos/mug/1.jpg", "photos/mug/2.jpg"]
    assert contents(SEQUENCE.data("01")) == before
    assert [path.name for path in SEQUENCE.data("01").parent.iterdir()] == ["01"]


def test_bad_photos_of_another_task_are_ignored(tmp_path):
    photos(tmp_path / "photos" / "mug", "red")
    photos(tmp_path / "photos" / "cup", "red")
    (tmp_path / "photos" / "cup" / "0.jpg").write_bytes(b"text")
    assert artifact.read(prepared(parameters(["cup", "mug"], "folder", "photos"), "02"), "data")
