"""Imports follow the layers without cycles, and the deps in dvc.yaml are exactly what the commands import.

Imports inside functions and under TYPE_CHECKING count too.
"""

import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import grimp
import networkx as nx
import pytest
from ruamel.yaml import YAML

PACKAGES = ("stages", "flows", "data")


class Exempt(NamedTuple):
    why: str  # why it cannot change results
    counts_for: tuple[str, ...] = ()  # stages whose results it can change nevertheless


SHAPED = ("start", "train", "merge", "sample")  # stages that load adapters or the base model
# Modules and packages that need not be in the deps of a stage that imports them.
EXEMPT = {
    "stages.core.command": Exempt("reads the command line, then calls the stage"),
    "stages.core.registry": Exempt("finds a plug-in by its name"),
    "stages.core.spare": Exempt("frees memory"),
    "stages.files.writing": Exempt("moves a finished file or folder into place; its bytes are the caller's"),
    "stages.files.sealed": Exempt("returns what was written to a cache, or nothing"),
    "stages.files.strict_json": Exempt("parses or refuses"),
    "stages.files.pins": Exempt("compares weights with their pins"),
    "stages.files.model_lock": Exempt("has the pins of downloaded weights", ("report",)),
    "stages.runtime.arguments": Exempt("reads the command line"),
    "stages.runtime.environment": Exempt("settings of the process, none of which changes a result"),
    "stages.runtime.exits": Exempt("exit codes"),
    "stages.runtime.faults": Exempt("error messages"),
    "stages.runtime.process": Exempt("locks and signals"),
    "stages.runtime.formatting": Exempt("sizes in messages", ("report",)),
    "stages.runtime.progress": Exempt("progress bars"),
    "stages.monitoring": Exempt("watches a training, which does not import it"),
    # stages.core.params imports every kind of plug-in to check its options; these are the stages that also use it.
    "stages.core.dataset": Exempt("checks options", ("prepare", "train")),
    "stages.core.family": Exempt("checks options", SHAPED),
    "stages.core.strategy": Exempt("checks options", ("start", "train", "merge", "report")),
    "stages.core.training": Exempt("checks options", ("start", "train")),
    "stages.core.rehearsal": Exempt("checks options", ("train", "report")),
    "stages.core.penalty": Exempt("a type in signatures", ("train",)),
    "stages.core.metric": Exempt("checks options", ("score", "report")),
    "stages.adapters": Exempt("only types in signatures", SHAPED),
    "stages.files.tensors": Exempt("imported with the adapters", (*SHAPED, "report")),
    # Imported with the function that reads the output of `prepare`.
    "stages.photos.decode": Exempt("only `prepare` decodes photos", ("prepare",)),
    "stages.files.untrusted": Exempt("elsewhere it only skips what other programs leave behind", ("prepare",)),
}
# The file of a run's strategy, as `start` has written its hash; a variant has no file of its own name.
STRATEGY = "runs/${study}/${item.domain}/${item.order}/${item.strategy}/${item.seed}/00/strategy.json"
# Of these `start` reads the bytes and `report` the regimes: neither depends on what they import.
STRATEGIES = "stages/strategies"
# Plug-ins that a stage's results depend on; they are imported by name, without an import statement.
PLUG_INS = {
    "prepare": ("stages/datasets",),
    "start": ("stages/families", STRATEGIES),
    "train": ("stages/families", STRATEGY),
    "merge": ("stages/families", STRATEGY),
    "sample": ("stages/families",),
    "score": ("stages/metrics",),
    "report": ("stages/metrics", STRATEGIES),
}
STAGES = YAML(typ="safe").load(Path("dvc.yaml"))["stages"]
PARAMS = YAML(typ="safe").load(Path("params.yaml"))


@cache
def imports() -> nx.DiGraph:
    """The import graph, with edges from a module to those that it imports."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False)
    edges = nx.DiGraph()
    edges.add_nodes_from(graph.modules)
    edges.add_edges_from(
        (module, other) for module in graph.modules for other in graph.find_modules_directly_imported_by(module)
    )
    return edges


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def path_of(module: str) -> Path:
    folder = Path(*module.split("."))
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def verb(stage: str) -> str:
    return str(STAGES[stage]["cmd"]).removeprefix("python -m stages.").split()[0]


def plug_ins(stage: str) -> set[str]:
    """The modules that a stage's plug-in deps may name."""
    patterns = ["stages/strategies/*" if dep == STRATEGY else dep for dep in PLUG_INS[verb(stage)] if dep != STRATEGIES]
    paths = {path for pattern in patterns for path in Path().glob(pattern)}
    return {module for module in imports() for path in paths if path_of(module).is_relative_to(path)}


def results_depend_on(stage: str) -> set[str]:
    """The modules that a stage's command imports, transitively, without plug-ins and exempt modules."""
    chosen = plug_ins(stage)
    reached, waiting = set(), {f"stages.{verb(stage)}", *chosen}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        if not within(module, "stages.monitoring"):  # modules that only monitoring imports cannot change results either
            waiting |= set(imports().successors(module)) - reached
    return {
        module
        for module in reached - chosen
        if path_of(module).name != "__init__.py"
        and not any(within(module, room) and verb(stage) not in one.counts_for for room, one in EXEMPT.items())
    }


def code_deps(stage: str) -> dict[str, set[str]]:
    """The deps of a stage that contain Python modules, with these modules; plug-ins are omitted."""
    known = {"${source}": PARAMS["source"]}
    deps = [known.get(dep, dep) for dep in STAGES[stage]["deps"] if dep not in PLUG_INS[verb(stage)]]
    held = {dep: {module for module in imports() if path_of(module).is_relative_to(dep)} for dep in deps}
    return {dep: {m for m in modules if path_of(m).name != "__init__.py"} for dep, modules in held.items() if modules}


def test_imports_follow_the_layers():
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", PACKAGES[:2])
def test_every_room_has_a_layer(package):
    contracts = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one.get("containers") == [package])
    named = {name for layer in layers for name in layer.split(" | ")}
    assert named == {module.split(".")[1] for module in imports() if module.startswith(f"{package}.")}


def test_there_are_no_import_cycles():
    cycles = [sorted(modules) for modules in nx.strongly_connected_components(imports()) if len(modules) > 1]
    assert not cycles


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_what_the_command_imports(stage):
    deps, needed = code_deps(stage), results_depend_on(stage)
    missing = {path_of(module).as_posix() for module in needed.difference(*deps.values())}
    assert not missing, f"{stage}: add these deps to dvc.yaml, or exempt them above: {sorted(missing)}"
    assert set(PLUG_INS[verb(stage)]) <= set(STAGES[stage]["deps"])
    for dep, held in deps.items():
        assert held & needed, f"{stage}: nothing needs {dep}"
        if stage != "report" and dep != PARAMS["source"]:  # the report is made in seconds; the source is for its photos
            assert held <= needed, f"{stage}: does not need {sorted(held - needed)} in {dep}: name single files"


def test_every_exempt_module_is_imported_by_a_stage():
    roots = {(f"stages.{verb(stage)}", *plug_ins(stage)) for stage in STAGES}
    imported = set().union(*(nx.descendants(imports(), module) for modules in roots for module in modules))
    assert not [room for room in EXEMPT if not any(within(module, room) for module in imported)]


@pytest.mark.parametrize("stage", STAGES)
def test_every_dep_that_names_code_exists(stage):
    named = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("stages/", "flows/")) and "$" not in dep]
    assert [dep for dep in named if not Path(dep).exists()] == []
