"""Profiles: whole studies to start from. One of them is complete; the others say only what they change.

A memory preset is a change of the same form on top, for a GPU with so many GB: data/profiles/memory/24.yaml.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

from stages.core.params import Params, load
from stages.files.writing import write_file
from stages.files.yaml import PARAMS, read_yaml
from stages.runtime.faults import ConfigFault, nearest

FOLDER = Path("data/profiles")
COMPLETE = "toy-objects"
PRESETS = FOLDER / "memory"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def summary(name: str) -> str:
    """The first comment of a profile."""
    first = (FOLDER / f"{name}.yaml").read_text("utf-8").splitlines()[0]
    return (
        first.lstrip("# ") if name != COMPLETE else "The default: ten objects, four strategies, a few minutes on a CPU."
    )


def presets() -> list[str]:
    return sorted((path.stem for path in PRESETS.glob("*.yaml")), key=int)


def text(name: str, memory: str | None = None) -> str:
    """params.yaml as this profile has it: the complete one with its sections changed.

    Raises:
        ConfigFault: there is no such profile or preset, or it is not plain YAML.
    """
    if name not in names():
        raise ConfigFault(f"there is no profile '{name}'. {nearest(name, names())}")
    if memory not in (None, *presets()):
        raise ConfigFault(f"there is no preset for {memory} GB. There is: {', '.join(presets())}.")
    complete = (FOLDER / f"{COMPLETE}.yaml").read_text("utf-8")
    changes = [FOLDER / f"{name}.yaml"] if name != COMPLETE else []
    changes += [PRESETS / f"{memory}.yaml"] if memory else []
    if not changes:
        return complete
    yaml = YAML(typ="rt")
    yaml.width = 120
    yaml.indent(mapping=2, sequence=2, offset=0)
    params = yaml.load(complete)
    for path in changes:
        for section, value in read_yaml(path).tree.items():
            params[section] = _changed(params.get(section), value, section)
    out = io.StringIO()
    yaml.dump(params, out)
    return out.getvalue()


def tree(name: str, memory: str | None = None) -> Any:
    """The same as plain dicts and lists."""
    return YAML(typ="safe").load(text(name, memory))


def _changed(old: Any, new: Any, section: str) -> Any:
    """Sections are merged key by key, and so are options of what keeps its name.

    The sequences are replaced as a whole, since they name the concepts of a domain.
    """
    if not isinstance(old, dict) or not isinstance(new, dict) or section in ("sequences", "dataset"):
        return new
    for key, value in new.items():
        if key == "options" and "name" not in new:
            old[key].update(value)
        else:
            old[key] = value
    return old


def params(name: str) -> Params:
    """The parameters of a profile, as if it were the current study.

    Raises:
        ConfigFault: as `text`, or the profile breaks a rule.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.yaml")
        path.write_text(text(name), "utf-8")
        return load(path)


def use(name: str, force: bool = False, memory: str | None = None) -> bool:
    """Puts a profile into params.yaml and says whether that changed it.

    Raises:
        ConfigFault: params.yaml holds changes of the user's own that no profile has, and `force` is not given.
    """
    wanted = text(name, memory)
    current = PARAMS.read_text("utf-8") if PARAMS.exists() else ""
    if current == wanted:
        return False
    if current and not force and current not in _all():
        kept = FOLDER / "NAME.yaml"
        raise ConfigFault(
            f"{PARAMS}: has changes that no profile has. Keep them as {kept}, or give --force to drop them."
        )
    write_file(PARAMS, wanted)
    return True


def _all() -> Iterator[str]:
    return (text(name, memory) for memory in (None, *presets()) for name in names())
