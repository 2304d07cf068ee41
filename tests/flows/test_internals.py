"""Undocumented parts of DVC and of Prefect are used in one module each."""

import ast
from pathlib import Path

import pytest

DVC, PREFECT = Path("flows/graph/dvc_internals.py"), Path("flows/engine/prefect_internals.py")
OTHERS = sorted(path for path in Path("flows").rglob("*.py") if path not in (DVC, PREFECT))
DVC_PACKAGES = {"dvc", "dvc_data", "dvc_objects", "scmrepo"}
# Modules that https://docs.prefect.io/v3/api-ref documents.
DOCUMENTED = ("artifacts", "cache_policies", "client", "deployments", "events", "exceptions", "runtime", "states",
              "task_runners")  # fmt: skip


def imported(path):
    """Every name that a file imports, with its module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private(path):
    """The private attributes that a file uses and does not define itself."""
    tree = ast.parse(path.read_text("utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
            continue
        if node.attr not in own and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield node.attr


@pytest.mark.parametrize("path", OTHERS, ids=str)
def test_undocumented_parts_are_used_in_one_module_each(path):
    names = list(imported(path))
    assert not [name for name in names if name.split(".")[0] in DVC_PACKAGES]
    prefect = [name.split(".")[1] for name in names if name.startswith("prefect.")]
    assert not [name for name in prefect if name not in (*DOCUMENTED, "flow", "Task", "tags", "get_run_logger")]
    assert set(private(path)) <= {"_exit"}  # of os
    if path.name != "prefect_view.py":
        assert 'getLogger("prefect' not in path.read_text("utf-8")


def test_both_modules_name_the_versions_that_they_were_written_for():
    lock = Path("requirements.lock").read_text("utf-8")
    for path, package in ((DVC, "dvc"), (DVC, "dvc-data"), (DVC, "dvc-objects"), (PREFECT, "prefect")):
        version = lock.split(f"\n{package}==")[1].split("\n")[0].split(" ")[0]
        minor = version.rpartition(".")[0]
        assert f"{package} {minor}" in path.read_text("utf-8"), f"{path} does not name {package} {minor}"
