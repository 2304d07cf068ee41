"""Profiles: whole studies to start from. One of them is complete; the others say only what they change."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from .faults import ConfigFault, nearest
from .reading import PARAMS, read_yaml

FOLDER = Path("data/profiles")
COMPLETE = "toy-objects"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def summary(name: str) -> str:
    """The first comment of a profile."""
    first = (FOLDER / f"{name}.yaml").read_text("utf-8").splitlines()[0]
    return (
        first.lstrip("# ") if name != COMPLETE else "The default: ten objects, four strategies, a few minutes on a CPU."
    )


def text(name: str) -> str:
    """params.yaml as this profile has it: the complete one with its sections changed.

    Raises:
        ConfigFault: there is no such profile, or it is not plain YAML.
    """
    if name not in names():
        raise ConfigFault(f"there is no profile '{name}'. {nearest(name, names())}")
    complete = (FOLDER / f"{COMPLETE}.yaml").read_text("utf-8")
    if name == COMPLETE:
        return complete
    changes = read_yaml(FOLDER / f"{name}.yaml").tree
    yaml = YAML(typ="rt")
    yaml.width = 120
    yaml.indent(mapping=2, sequence=2, offset=0)
    params = yaml.load(complete)
    for section, value in changes.items():
        params[section] = _changed(params.get(section), value, section)
    out = io.StringIO()
    yaml.dump(params, out)
    return out.getvalue()


def _changed(old: Any, new: Any, section: str) -> Any:
    """Sections are merged key by key.

    The sequences are replaced as a whole, since they name the concepts of a domain.
    """
    if isinstance(old, dict) and isinstance(new, dict) and section not in ("sequences", "dataset"):
        old.update(new)
        return old
    return new


def use(name: str, force: bool = False) -> bool:
    """Puts a profile into params.yaml and says whether that changed it.

    Raises:
        ConfigFault: params.yaml holds changes of the user's own that no profile has, and `force` is not given.
    """
    wanted = text(name)
    current = PARAMS.read_text("utf-8") if PARAMS.exists() else ""
    if current == wanted:
        return False
    if current and not force and current not in [text(known) for known in names()]:
        kept = FOLDER / "NAME.yaml"
        raise ConfigFault(
            f"{PARAMS}: has changes that no profile has. Keep them as {kept}, or give --force to drop them."
        )
    PARAMS.write_text(wanted, "utf-8")
    return True
