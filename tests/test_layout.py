"""The size of files, functions and folders, the rooms in the README, and names that may stand in one file only."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from stages.tools import profiles

ROOTS = ("stages", "flows", "data", "tests")
SOURCES = sorted(p for root in ROOTS[:3] for p in Path(root).rglob("*.py"))
FILES_IN_A_FOLDER, LINES_OF_A_FILE, LINES_OF_A_FUNCTION, LINES_OF_A_STAGE = 12, 300, 50, 60


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_functions_and_files_stay_short(path):
    text = path.read_text("utf-8")
    limit = LINES_OF_A_STAGE if path.parent == Path("stages") else LINES_OF_A_FILE
    assert text.count("\n") <= limit, f"{path} has {text.count(chr(10))} lines, {limit} are allowed"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LINES_OF_A_FUNCTION, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_no_strategy_is_named_outside_its_own_file():
    """Checks the published strategies: the name of another one may be a common word. import-linter checks imports."""
    names = "naive|merge_init|ortho_init|magmax"
    for path in SOURCES:
        if path.parent.name == "strategies" or path.parts[0] == "data":
            continue
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text("utf-8"), flags=re.S)
        matches = re.findall(rf"\b(?:{names})\b", code)
        assert not matches, f"{path} names {set(matches)}"


def test_params_yaml_is_the_default_profile():
    assert Path("params.yaml").read_text("utf-8") == profiles.text("toy-objects")


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_can_be_written(name):
    assert profiles.text(name).startswith("# ")
    assert f"study: {profiles.COMPLETE if name == profiles.COMPLETE else name}" in profiles.text(name)


def test_folders_stay_small():
    """Except strategies: each is one file, whose path the graph derives from its name."""
    paths = [path for root in ROOTS for path in Path(root).rglob("*.py") if path.parts[:2] != ("stages", "strategies")]
    counts = Counter(path.parent for path in paths if path.name != "__init__.py")
    assert not {str(folder): count for folder, count in counts.items() if count > FILES_IN_A_FOLDER}


@pytest.mark.parametrize("package", ["stages", "flows"])
def test_the_readme_has_a_line_for_every_room(package):
    readme = Path("stages/README.md").read_text("utf-8")
    rooms = {path.parent.name for path in Path(package).glob("*/__init__.py")}
    assert rooms
    missing = {room for room in rooms if not re.search(rf"\b{package}/{room}\b", readme)}
    assert not missing, f"stages/README.md has no line for {package}/ {sorted(missing)}"
