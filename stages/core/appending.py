"""One more task at the end of params.yaml. Every other byte of the file stays: comments, order, quotes and all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from .faults import ConfigFault

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
