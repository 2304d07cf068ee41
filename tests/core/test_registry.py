import gc
import weakref
from functools import cached_property

import pytest

from stages.core.dataset import datasets
from stages.core.family import families
from stages.core.params import Params, load
from stages.core.registry import Registry
from stages.runtime.faults import ConfigFault
from stages.runtime.strict import Strict


class Thing(Strict):
    path: str = ""
    dtype: str = "float32"

    @cached_property
    def loaded(self) -> object:
        return [self.path]


@pytest.fixture
def things():
    registry: Registry[Thing] = Registry("thing", "stages.strategies", remembers=2)
    registry.register("one")(Thing)
    registry.register("two")(type("Other", (Thing,), {}))
    return registry


def test_the_same_options_are_the_same_instance_with_what_it_has_loaded(things):
    first = things.get("one", {"dtype": "float16"})
    assert things.get("one", {"dtype": "float16"}) is first
    assert things.get("one", {"dtype": "float16", "path": ""}).loaded is first.loaded
    assert things.make("one", {"dtype": "float16"}) is not first


def test_other_options_or_another_name_are_another_instance(things):
    first = things.get("one")
    assert things.get("one", {"dtype": "float16"}) is not first
    assert things.get("two") is not first
    assert type(things.get("two")) is not Thing


def test_no_more_instances_stay_than_it_remembers(things):
    first = weakref.ref(things.get("one"))
    kept = things.get("one", {"dtype": "float16"})
    assert things.get("one") is first()
    assert things.get("one", {"dtype": "float16"}) is kept
    things.get("two")  # the one used longest ago goes
    gc.collect()
    assert first() is None
    assert things.get("one", {"dtype": "float16"}) is kept


def test_a_wrong_option_is_refused_every_time(things):
    things.get("one")
    for _ in range(2):
        with pytest.raises(ConfigFault, match=r"base: thing one: unknown key 'dtyp'"):
            things.get("one", {"dtyp": "float16"}, "base: ")
        with pytest.raises(ConfigFault, match=r"no thing is called 'three'"):
            things.get("three")


def test_a_changed_file_is_another_instance(things, tmp_path):
    def seen():
        return things.get("one", {"path": str(tmp_path / "model")})

    found = [seen()]
    (tmp_path / "model" / "unet").mkdir(parents=True)
    found.append(seen())
    (tmp_path / "model" / "unet" / "weights").write_bytes(b"one")
    found.append(seen())
    (tmp_path / "model" / "unet" / "weights").write_bytes(b"more")
    found.append(seen())
    (tmp_path / "model" / "other").write_bytes(b"")
    found.append(seen())
    assert len({id(one) for one in found}) == 5
    assert seen() is found[-1]
    other = tmp_path / "model" / "unet" / "draft"
    other.write_bytes(b"MORE")
    other.replace(tmp_path / "model" / "unet" / "weights")
    assert seen() is not found[-1]


def test_a_relative_path_is_that_of_the_current_folder(things, tmp_path, monkeypatch):
    found = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "weights").write_bytes(b"same")
        monkeypatch.chdir(tmp_path / place)
        found.append(things.get("one", {"path": "weights"}))
        assert things.get("one", {"path": "weights"}) is found[-1]
    assert found[0] is not found[1]


def test_a_substitute_stands_in_for_the_length_of_a_block(things):
    stub, other = Thing(path="stub"), Thing(path="other")
    first = things.get("one")
    with things.put("one", stub), things.put("unregistered", other):
        assert things.get("one", {"dtype": "float16"}) is stub
        assert things.get("unregistered") is other
        with things.put("one", other):
            assert things.get("one") is other
        assert things.get("one") is stub
    assert things.get("one") is first
    with pytest.raises(ConfigFault):
        things.get("unregistered")


def test_parameters_hold_nothing_but_their_fields():
    params = load()
    assert params.family.shapes()
    assert params.judges
    assert params.data.domains()
    assert set(vars(params)) == set(Params.model_fields)


def test_parameters_with_the_same_base_share_one_family():
    one, two = load(), load()
    family = one.family
    assert two.family is family
    assert one.model_copy(update={"train": one.train.model_copy(update={"steps": 1})}).family is family
    base = one.base.model_copy(update={"options": one.base.options | {"dtype": "float16"}})
    half = one.model_copy(update={"base": base}).family
    assert half is not family
    assert (half.number_format, family.number_format) == ("float16", one.base.options.get("dtype", "float32"))
    assert len(families._made) == 1  # weights of one base at a time


def test_parameters_see_a_folder_of_photos_as_it_is_now(tmp_path):
    params = load().model_copy(update={"source": str(tmp_path)})
    params = params.model_copy(update={"dataset": params.dataset.model_copy(update={"name": "folder", "options": {}})})
    assert type(params.data) is datasets.classes["folder"]
    for number, name in enumerate(("mug", "boot"), 1):
        (tmp_path / "objects" / name).mkdir(parents=True)
        assert len(next(iter(params.data.domains().values()))) == number
