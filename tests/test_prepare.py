import json
import logging
from argparse import Namespace
from pathlib import Path

import pytest
from PIL import Image

from stages.core.params import Named, Params, Prepare, Task
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
        dataset=Named(name=dataset),
        prepare=Prepare(resolution=resolution),
    )


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(params: Params, task: str = "01") -> Path:
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


def test_it_writes_what_it_says(tmp_path):
    folder = made(parameters(["sks_star", "zwz_heart"]), "02")
    facts, training, references = read_data(folder)
    assert folder == Path("runs/small/objects/0/data/02")
    assert (facts["domain"], facts["order"], facts["position"], facts["resolution"]) == ("objects", "0", 2, 32)
    assert facts["concept"]["name"] == "zwz_heart"
    assert facts["concept"]["prompts"][0] == "a photo of a zwz heart on the beach"
    assert set(facts["concept"]) == {"name", "token", "noun", "training_prompt", "prompts", "plain_prompts"}
    assert [image.size for image in training] == [(32, 32)] * 6
    assert [image.tobytes() for image in references] == [image.tobytes() for image in training]
    assert sorted(facts["files"]) == [f"training/{i:02d}.png" for i in range(6)]


def test_twice_gives_the_same_bytes():
    params = parameters(["sks_star"])
    first = contents(made(params))
    assert contents(made(params)) == first


def test_a_manifest_depends_on_no_other_task(tmp_path):
    photos(tmp_path / "photos" / "mug", "red", "blue")
    photos(tmp_path / "photos" / "cup", "red", "green")
    alone = contents(made(parameters(["mug"], "folder", "photos")))
    third = made(parameters(["cup", "mug"], "folder", "photos"), "02")
    for name, data in contents(third).items():
        if name.endswith(".png"):
            assert data == alone[name]
    first, second = (json.loads(c["manifest.json"])["pictures"] for c in (alone, contents(third)))
    assert first == second


def test_no_path_of_this_machine_and_no_time_gets_into_it(tmp_path):
    photos(tmp_path / "photos" / "mug", "red")
    for data in contents(made(parameters(["mug"], "folder", str(tmp_path / "photos")))).values():
        assert str(tmp_path).encode() not in data


def test_twins_are_warned_of(tmp_path, caplog):
    photos(tmp_path / "photos" / "mug", "red")
    photos(tmp_path / "photos" / "cup", "red")
    with caplog.at_level(logging.INFO):
        made(parameters(["cup", "mug"], "folder", "photos"), "02")
    assert "02 mug: 0.jpg: the same file as cup/0.jpg" in caplog.text
    assert "02 mug: 1 to learn from, 1 to compare with" in caplog.text


def test_bad_photos_leave_nothing_behind_and_do_not_touch_what_was_there(tmp_path):
    photos(tmp_path / "photos" / "mug", "red", "blue")
    params = parameters(["mug"], "folder", "photos")
    before = contents(made(params))
    (tmp_path / "photos" / "mug" / "1.jpg").write_bytes(b"")
    (tmp_path / "photos" / "mug" / "2.jpg").write_bytes(b"text")
    with pytest.raises(InputFault) as caught:
        made(params)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["photos/mug/1.jpg", "photos/mug/2.jpg"]
    assert contents(SEQUENCE.data("01")) == before
    assert [path.name for path in SEQUENCE.data("01").parent.iterdir()] == ["01"]


def test_bad_photos_of_another_task_are_its_own_fault(tmp_path):
    photos(tmp_path / "photos" / "mug", "red")
    photos(tmp_path / "photos" / "cup", "red")
    (tmp_path / "photos" / "cup" / "0.jpg").write_bytes(b"text")
    assert artifact.read(made(parameters(["cup", "mug"], "folder", "photos"), "02"), "data")
