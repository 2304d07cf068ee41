"""One more task at the end of params.yaml. Every other byte of the file stays: comments, order, quotes and all."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from stages.files.yaml import PARAMS, read_yaml
from stages.runtime.faults import ConfigFault, nearest

LAST_POSITION = 99


def with_task(text: str, concepts: Mapping[str, str]) -> str:
    """The text of a params.yaml whose `tasks`, and every sequence of these domains, have one more position.

    Args:
        concepts: what stands there, by domain.

    Raises:
        ConfigFault: a concept is there already, or the file has no place for it; the message says what to do by hand.
    """
    tree = YAML(typ="safe", pure=True).load(text)
    last = tree["tasks"][-1]
    number = int(last["index"]) + 1
    if number > LAST_POSITION:
        raise ConfigFault(f"tasks: there are {LAST_POSITION} already, and no study may have more. Begin a new one.")
    sees = "data" if last["sees"] == "data" else f"data/{number:02d}"
    task = f"{{index: '{number:02d}', previous: '{last['index']}', sees: {sees}}}"
    key, root = f"t{number:02d}", YAML(typ="safe", pure=True).compose(text)
    edits = [_edit(text, _at(root, "tasks"), task)]
    for domain, concept in concepts.items():
        for order, listed in tree["sequences"][domain].items():
            if key in listed or f"t{last['index']}" not in listed:
                raise ConfigFault(f"sequences.{domain}.{order}: must end with t{last['index']}, as tasks does.")
            if concept in listed.values():
                raise ConfigFault(f"sequences.{domain}.{order}: '{concept}' is there already.")
            edits.append(_edit(text, _at(root, "sequences", domain, order), f"{key}: {_scalar(concept)}"))
            listed[key] = concept
    new = text
    for place, more in sorted(edits, reverse=True):
        new = new[:place] + more + new[place:]
    tree["tasks"].append({"index": f"{number:02d}", "previous": last["index"], "sees": sees})
    if YAML(typ="safe", pure=True).load(new) != tree:
        raise ConfigFault(f"tasks and sequences: are written in a way that cannot be added to. Add {task} by hand.")
    return new


def _at(node: Node, *keys: str) -> Any:
    for key in keys:
        node = next(value for name, value in node.value if name.value == key)
    return node


def _edit(text: str, node: MappingNode | SequenceNode, item: str) -> tuple[int, str]:
    """Where in the text, and what, to make this the last item of a list or a mapping."""
    last = node.value[-1]
    end = last[1] if isinstance(node, MappingNode) else last
    while not isinstance(end.value, str) and not end.flow_style:
        end = end.value[-1][1] if isinstance(end, MappingNode) else end.value[-1]
    place = int(end.end_mark.index)
    if node.flow_style:
        return place, f", {item}"
    line = re.compile(r"[^\r\n]*").match(text, place)
    assert line
    newline = "\r\n" if "\r\n" in text else "\n"
    dash = "- " if isinstance(node, SequenceNode) else ""
    return line.end(), f"{newline}{' ' * node.start_mark.column}{dash}{item}"


def _scalar(word: str) -> str:
    """Quoted if YAML would take it for anything but this word."""
    return word if YAML(typ="safe", pure=True).load(word) == word else f"'{word}'"


NAME = re.compile("[a-z0-9][a-z0-9_]*")  # what a concept may be called


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.width = 120
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=2, offset=0)
    return yaml


def _dumped(yaml: YAML, tree: Any) -> str:
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def by_domain(names: list[str], domains: list[str]) -> dict[str, str]:
    """CONCEPT, or DOMAIN/CONCEPT where there are several domains: all of them share their positions.

    Raises:
        ConfigFault: a domain is not there, or not every domain has one concept.
    """
    found: dict[str, str] = {}
    for name in names:
        domain, slash, concept = name.rpartition("/")
        domain = domain if slash else domains[0]
        if domain not in domains:
            raise ConfigFault(f"{name}: there is no domain '{domain}'. {nearest(domain, domains)}")
        if domain in found:
            raise ConfigFault(f"{name}: one concept at a time; {found[domain]} was given too.")
        found[domain] = concept
    missing = [domain for domain in domains if domain not in found]
    if missing:
        raise ConfigFault(f"{', '.join(missing)}: positions are shared by all domains. Name one as DOMAIN/CONCEPT too.")
    return found


def domain_of(name: str) -> tuple[str, str]:
    """The domain of a concept of the sequence, and its name.

    Raises:
        ConfigFault: it is in none.
    """
    domain, _, concept = name.rpartition("/")
    known = {
        one: {name for listed in orders.values() for name in listed.values()}
        for one, orders in tree()["sequences"].items()
        if not domain or one == domain
    }
    for one, names in known.items():
        if concept in names:
            return one, concept
    raise ConfigFault(f"no concept '{name}' is in the sequence. {nearest(concept, set().union(*known.values()))}")


def without_concept(text: str, concepts: Mapping[str, str]) -> str:
    """params.yaml without a concept: those after it move up by one position.

    Raises:
        ConfigFault: an order does not have it, or nothing would be left.
    """
    yaml = _yaml()
    tree = yaml.load(text)
    tasks = tree["tasks"]
    if len(tasks) == 1:
        raise ConfigFault("tasks: this is the only concept. A study needs one: add another first.")
    _drop_last(tasks)
    for domain, concept in concepts.items():
        for listed in tree["sequences"][domain].values():
            keys, names = list(listed), list(listed.values())
            if concept not in names:
                raise ConfigFault(f"{domain}: no concept '{concept}' is in the sequence. {nearest(concept, names)}")
            names.remove(concept)
            for key, name in zip(keys, names, strict=False):
                listed[key] = name
            _drop_last(listed)
    return _dumped(yaml, tree)


def _drop_last(listed: Any) -> None:
    """Removes the last item of a mapping or list, but not the blank lines and comments after it."""
    keys = list(listed) if isinstance(listed, CommentedMap) else list(range(len(listed)))
    after = listed.ca.items.pop(keys[-1], None)
    gone = listed.pop(keys[-1])
    if after is not None:
        listed.ca.items[keys[-2]] = after
    elif isinstance(gone, CommentedMap) and gone.ca.items:
        listed[keys[-2]].ca.items.update(gone.ca.items)


def sequence_of(names: list[str], domain: str) -> tuple[list[CommentedMap], dict[str, Any]]:
    """`tasks` and `sequences` of a study that learns these in this order."""
    tasks = []
    for i in range(1, len(names) + 1):
        task = CommentedMap(index=f"{i:02d}", previous=f"{i - 1:02d}", sees=f"data/{i:02d}")
        task.fa.set_flow_style()
        tasks.append(task)
    return tasks, {domain: {"0": {f"t{i:02d}": name for i, name in enumerate(names, 1)}}}


def with_sequence(text: str, names: list[str], domain: str) -> str:
    """params.yaml with another sequence altogether."""
    yaml = _yaml()
    tree = yaml.load(text)
    tree["tasks"], tree["sequences"] = sequence_of(names, domain)
    return _dumped(yaml, tree)


def tree(path: Path = PARAMS) -> dict[str, Any]:
    """params.yaml as it is written, with none of its rules checked but that it is YAML: fast.

    Raises:
        ConfigFault: there is none, or a section that every study has is missing.
    """
    if not path.exists():
        raise ConfigFault("there is no params.yaml here: this is no project. Make one: palimpsest init my-study.")
    found: dict[str, Any] = read_yaml(path).tree
    missing = [
        key for key in ("study", "domains", "orders", "strategies", "seeds", "tasks", "sequences") if not found.get(key)
    ]
    if missing:
        raise ConfigFault(f"{path}: '{missing[0]}' is missing. Which profiles there are: palimpsest profile list.")
    return found
