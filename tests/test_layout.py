"""The shape of the project, kept by a machine: who imports whom, how long things are, what the README lists."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stages.core import profiles

SOURCES = sorted(p for root in ("stages", "flows", "data") for p in Path(root).rglob("*.py"))


def test_imports_run_one_way():
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_functions_and_files_stay_short(path):
    text = path.read_text("utf-8")
    limit = 60 if path.parent == Path("stages") else 350
    assert text.count("\n") <= limit, f"{path} has {text.count(chr(10))} lines, {limit} are allowed"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 50, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_no_strategy_is_named_outside_its_own_file():
    """Of those published: the name of a later one may be a common word. That none is imported is a contract of
    import-linter's."""
    names = "naive|merge_init|ortho_init|magmax"
    for path in SOURCES:
        if path.parent.name == "strategies" or path.parts[0] == "data":
            continue
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text("utf-8"), flags=re.S)
        found = re.findall(rf"\b(?:{names})\b", code)
        assert not found, f"{path} names {set(found)}"


def test_the_parameters_are_those_of_a_profile():
    assert Path("params.yaml").read_text("utf-8") == profiles.text("toy-objects")


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_can_be_written_out(name):
    assert profiles.text(name).startswith("# ")
    assert f"study: {profiles.COMPLETE if name == profiles.COMPLETE else name}" in profiles.text(name)


def test_the_readme_lists_every_file():
    readme = Path("README.md").read_text("utf-8")
    for path in SOURCES:
        if path.name != "__init__.py":
            assert path.name in readme, f"{path} is not in the README's tree"
