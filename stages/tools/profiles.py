"""Profiles: complete studies to start from. One holds every section; most others hold only their changes to it.

`from` names another profile to change instead. A profile with every section and without `from`, such as a saved
params.yaml, is taken as it is. Profiles in a sub-folder are a group, such as `questions`. A memory preset is another
set of changes, for a GPU with so many GB: data/profiles/memory/24.yaml.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from stages.files.artifact import digest
from stages.files.writing import write_file
from stages.files.yaml import PARAMS, read_yaml
from stages.runtime.faults import ConfigFault, nearest

if TYPE_CHECKING:
    from stages.core.params import Params

FOLDER = Path("data/profiles")
COMPLETE = "toy-objects"
LINE = 120  # characters in a line of params.yaml
PRESETS = FOLDER / "memory"
WRITTEN = Path(".cache", "profile.sha256")  # of params.yaml as `use` wrote it: the profile may change afterwards
FROM = "from"  # the key of a profile that names the one it changes


def names() -> list[str]:
    """The names of all profiles, sorted."""
    return sorted(files())


def files(project: Path = Path()) -> dict[str, Path]:
    """The files of all profiles of a project by name."""
    return {path.stem: path for path in (project / FOLDER).glob("**/*.yaml") if path.parent != project / PRESETS}


def groups() -> dict[str, list[str]]:
    """The names of the profiles by group, sorted; first those without one, under ""."""
    grouped: dict[str, list[str]] = {"": []}
    for name, path in sorted(files().items()):
        grouped.setdefault("" if path.parent == FOLDER else path.parent.name, []).append(name)
    return grouped


def summary(name: str) -> str:
    """One line that describes a profile: its first line, if that is a comment."""
    if name == COMPLETE:
        return "The default: ten objects, seven strategies, some minutes on a CPU."
    first = files()[name].read_text("utf-8", "replace").partition("\n")[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""


def presets() -> list[str]:
    """The memory presets in GB, smallest first."""
    return sorted((path.stem for path in PRESETS.glob("*.yaml")), key=int)


def text(name: str, memory: str | None = None) -> str:
    """The text of params.yaml for a profile: a complete profile with the changes applied.

    Args:
        name: a profile.
        memory: a memory preset in GB; None for none.

    Raises:
        ConfigFault: the profile or preset does not exist, or is not plain YAML; or `from` names none.
    """
    start, changes = _made_of(name)
    if memory not in (None, *presets()):
        raise ConfigFault(f"unknown memory preset '{memory}'. There is: {', '.join(presets())}.")
    complete = start.read_text("utf-8")
    if memory:
        changes.append(read_yaml(PRESETS / f"{memory}.yaml").tree)
    if not changes:
        return complete
    yaml = YAML(typ="rt")
    yaml.width = LINE
    yaml.indent(mapping=2, sequence=2, offset=0)
    params = yaml.load(complete)
    for given in changes:
        if "learning_rate" in given.get("train", {}):
            _drop_rates(params)
        for section, value in given.items():
            if section == FROM:
                continue
            params[section] = _merged(params.get(section), value, section)
    _drop_variants_of_others(params)
    out = io.StringIO()
    yaml.dump(params, out)
    return out.getvalue()


def _made_of(name: str) -> tuple[Path, list[Any]]:
    """The complete profile that this one is made from, and the changes to it: of others on the way, and its own."""
    known, chain, changes = files(), [name], list[Any]()
    sections = read_yaml(known[COMPLETE]).tree.keys()
    while chain[0] != COMPLETE:
        if chain[0] not in known:
            where = f"{known[chain[1]]}: {FROM}: " if len(chain) > 1 else ""
            raise ConfigFault(f"{where}unknown profile '{chain[0]}'. {nearest(chain[0], known)}")
        changed = read_yaml(known[chain[0]]).tree
        if FROM not in changed and changed.keys() >= sections:
            break
        changes.insert(0, changed)
        base = changed.get(FROM, COMPLETE)
        if base in chain:
            raise ConfigFault(f"{known[chain[0]]}: {FROM}: '{base}' is made from this one. Name another.")
        chain.insert(0, base)
    return known[chain[0]], changes


def tree(name: str, memory: str | None = None) -> Any:
    """The same as `text`, as plain dicts and lists."""
    return YAML(typ="safe").load(text(name, memory))


def _merged(old: Any, new: Any, section: str) -> Any:
    """Merges a section key by key, and `options` too unless `name` changes.

    `sequences` and `dataset` are replaced as a whole, since they name the concepts of a domain.
    """
    if isinstance(old, CommentedSeq) and old.fa.flow_style() and len(str(new)) < LINE:
        new = CommentedSeq(new)
        new.fa.set_flow_style()  # on one line, as it was
    if not isinstance(old, dict) or not isinstance(new, dict) or section in ("sequences", "dataset"):
        return new
    for key, value in new.items():
        if key == "options" and "name" not in new:
            old[key].update(value)
        else:
            old[key] = value
    return old


def _drop_rates(params: Any) -> None:
    """Omits the strategies' own learning rates: they were chosen together with another rate of the study."""
    for entry in params["strategy"].values():
        if "train" in entry:
            entry["train"].pop("learning_rate", None)
            if not entry["train"]:
                del entry["train"]


def _drop_variants_of_others(params: Any) -> None:
    """Omits variants that the strategies do not list: their rates were chosen for another study."""
    for name, entry in list(params["strategy"].items()):
        if name not in params["strategies"] and {"is", "train"} & entry.keys():
            del params["strategy"][name]


def params(name: str, memory: str | None = None) -> Params:
    """The validated parameters of a profile, as if it were the current study; arguments as for `text`.

    Raises:
        ConfigFault: as `text`, or the profile is invalid.
    """
    from stages.core.params import load

    with TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.yaml")
        path.write_text(text(name, memory), "utf-8")
        try:
            return load(path)
        except ConfigFault as fault:
            message = re.sub(rf"^{re.escape(str(path))}:\d+: ", "", str(fault))
            raise ConfigFault(f"{read_yaml(files()[name]).place(message)}: {message}") from None


def use(name: str, force: bool = False, memory: str | None = None) -> bool:
    """Writes a profile to params.yaml.

    Args:
        name: a profile.
        force: overwrite the user's own changes.
        memory: a memory preset in GB; None for none.

    Returns:
        Whether params.yaml changed.

    Raises:
        ConfigFault: params.yaml has changes that are in no profile, and `force` is false.
    """
    new = text(name, memory)
    current = PARAMS.read_text("utf-8") if PARAMS.exists() else ""
    if current == new:
        return False
    if current and not force and not (_is_as_written(current) or _is_a_profile(current)):
        profile = FOLDER / "NAME.yaml"
        raise ConfigFault(
            f"{PARAMS}: has changes that are in no profile. Save them as {profile}, or give --force to drop them."
        )
    write_file(PARAMS, new)
    WRITTEN.parent.mkdir(exist_ok=True)
    write_file(WRITTEN, digest(new))
    return True


def _is_as_written(current: str) -> bool:
    return WRITTEN.exists() and WRITTEN.read_text("utf-8") == digest(current)


def _is_a_profile(current: str) -> bool:
    """Whether this is the text of a profile, with or without a preset; only those of the same study are built."""
    study = re.search(r"^study: (\S+)", current, re.M)
    same = [name for name, path in files().items() if study and read_yaml(path).tree.get("study") in (None, study[1])]
    return any(current == text(name, memory) for name in same for memory in (None, *presets()))
