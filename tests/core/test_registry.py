import gc
import weakref
from functools import cached_property

import pytest

from stages.core.dataset import datasets
from stages.core.family import families
from stages.core.params import Params, load
from stages.core.registry import Registry
from stages.core.strategy import Strategy
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
    registry: Registry[Thing] = Registry("thing", "stages.strategies", cache_size=2)
    registry.register("one")(Thing)
    registry.register("two")(type("Other", (Thing,), {}))
    return registry


def test_the_same_options_give_the_same_instance_with_everything_loaded(things):
    first = things.get("one", {"dtype": "float16"})
    assert things.get("one", {"dtype": "float16"}) is first
    assert things.get("one", {"dtype": "float16", "path": ""}).loaded is first.loaded
    assert things.make("one", {"dtype": "float16"}) is not first


def test_other_options_or_names_give_another_instance(things):
    first = things.get("one")
    assert things.get("one", {"dtype": "float16"}) is not first
    assert things.get("two") is not first
    assert type(things.get("two")) is not Thing


def test_the_cache_holds_at_most_cache_size_instances(things):
    first = weakref.ref(things.get("one"))
    recent = things.get("one", {"dtype": "float16"})
    assert things.get("one") is first()
    assert things.get("one", {"dtype": "float16"}) is recent
    things.get("two")  # drops the least recently used
    gc.collect()
    assert first() is None
    assert things.get("one", {"dtype": "float16"}) is recent


def test_a_wrong_option_is_refused_every_time(things):
    things.get("one")
    for _ in range(2):
        with pytest.raises(ConfigFault, match=r"base: thing one: unknown key 'dtyp'"):
            things.get("one", {"dtyp": "float16"}, "base: ")
        with pytest.raises(ConfigFault, match=r"no thing is called 'three'"):
            things.get("three")


def test_a_changed_file_gives_another_instance(things, tmp_path):
    def current():
        return things.get("one", {"path": str(tmp_path / "model")})

    instances = [current()]
    (tmp_path / "model" / "unet").mkdir(parents=True)
    instances.append(current())
    (tmp_path / "model" / "unet" / "weights").write_bytes(b"one")
    instances.append(current())
    (tmp_path / "model" / "unet" / "weights").write_bytes(b"more")
    instances.append(current())
    (tmp_path / "model" / "other").write_bytes(b"")
    instances.append(current())
    assert len({id(one) for one in instances}) == 5
    assert current() is instances[-1]
    other = tmp_path / "model" / "unet" / "draft"
    other.write_bytes(b"MORE")
    other.replace(tmp_path / "model" / "unet" / "weights")
    assert current() is not instances[-1]


def test_relative_paths_depend_on_the_current_folder(things, tmp_path, monkeypatch):
    instances = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "weights").write_bytes(b"same")
        monkeypatch.chdir(tmp_path / place)
        instances.append(things.get("one", {"path": "weights"}))
        assert things.get("one", {"path": "weights"}) is instances[-1]
    assert instances[0] is not instances[1]


def test_a_substitute_is_used_within_the_block_only(things):
    stub, other = Thing(path="stub"), Thing(path="other")
    first = things.get("one")
    with things.substitute("one", stub), things.substitute("unregistered", other):
        assert things.get("one", {"dtype": "float16"}) is stub
        assert things.get("unregistered") is other
        with things.substitute("one", other):
            assert things.get("one") is other
        assert things.get("one") is stub
    assert things.get("one") is first
    with pytest.raises(ConfigFault):
        things.get("unregistered")


def test_parameters_cache_nothing_on_themselves():
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
    assert len(families._cache) == 1  # weights of one base at a time


def test_parameters_read_a_folder_of_photos_as_it_is_now(tmp_path):
    params = load().model_copy(update={"source": str(tmp_path)})
    params = params.model_copy(update={"dataset": params.dataset.model_copy(update={"name": "folder", "options": {}})})
    assert type(params.data) is datasets.classes["folder"]
    for number, name in enumerate(("mug", "boot"), 1):
        (tmp_path / "objects" / name).mkdir(parents=True)
        assert len(next(iter(params.data.domains().values()))) == number


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A function that writes a plug-in's file, and their registry."""
    package = f"plug_ins_{tmp_path.name}"
    (tmp_path / package).mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[Thing] = Registry("thing", package)
    monkeypatch.setattr("stages.core.registry.offered", registry, raising=False)

    def write(name: str, text: str) -> None:
        head = "from stages.core.registry import offered\nfrom stages.runtime.strict import Strict\n"
        (tmp_path / package / f"{name}.py").write_text(head + text)

    return write, registry, package


def test_a_plug_in_is_called_as_its_file_is(files):
    """Otherwise two files could have one name, and what was imported first would decide between them."""
    write, registry, package = files
    write("halves", "@offered.register('halves')\nclass Halves(Strict): share: float = 0.5\n")
    write("copied", "@offered.register('halves')\nclass Copied(Strict): other: float = 0.5\n")
    assert "share" in type(registry.make("halves")).model_fields
    for _ in range(2):
        with pytest.raises(ConfigFault, match=f"^{package}/copied.py: registers 'halves'. Name the file halves.py.$"):
            registry.make("copied")
    assert "share" in type(registry.make("halves")).model_fields


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import not_there\n", "ModuleNotFoundError: No module named 'not_there'"),
        ("class:\n", r"SyntaxError: invalid syntax \(broken.py, line 3\)"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named(files, text, reason):
    write, registry, package = files
    write("broken", text)
    with pytest.raises(
        ConfigFault, match=rf"^{package}/broken.py: cannot be imported \({reason}\). Mend or remove it.$"
    ):
        registry.make("broken")


def test_the_sources_of_a_plug_in_are_its_file_and_those_of_its_folder_that_it_imports(tmp_path, monkeypatch):
    room = tmp_path / "some_room"
    (room / "shared").mkdir(parents=True)
    (room / "__init__.py").touch()
    (room / "shared/__init__.py").touch()
    (room / "shared/ranks.py").write_text("import os\nfrom stages.runtime.strict import Strict\n")
    (room / "base.py").write_text("from .shared.ranks import Strict\n\nclass Base(Strict):\n    pass\n")
    (room / "other.py").write_text("raise ValueError('nobody imports it')\n")
    (room / "mine.py").write_text(
        "from stages.runtime import strict\nfrom some_room.base import Base\nfrom tests.core import rooms\n\n"
        "@rooms.register('mine')\nclass Mine(Base):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[Strict] = Registry("thing", "some_room")
    monkeypatch.setattr("tests.core.rooms", registry, raising=False)
    registry.make("mine")
    found = registry.sources("mine")
    assert list(found) == ["some_room.mine", "some_room.base", "some_room.shared.ranks"]
    assert [path.relative_to(room).as_posix() for path in found.values()] == ["mine.py", "base.py", "shared/ranks.py"]


def test_a_class_that_is_no_plug_in_or_lacks_a_method_is_refused_with_its_file():
    with pytest.raises(ConfigFault, match=r"^builtins.py: int is no strategy. Derive it from one."):
        Registry("strategy", "stages.strategies").register("int")(int)
    registry: Registry[Strategy] = Registry("strategy", "stages.strategies")
    registry.register("bare")(type("Bare", (Strategy,), {"__module__": "tests.core.bare"}))
    with pytest.raises(
        ConfigFault, match=r"^tests/core/bare.py: Can't instantiate abstract class Bare .*'?merge'?\. Mend"
    ):
        registry.make("bare")
