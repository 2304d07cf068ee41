"""Reads YAML 1.2 as DVC does, strictly: no anchors, tags or duplicate keys. Records the line of every key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionStartEvent, ScalarEvent

from stages.runtime.faults import ConfigFault

PARAMS = Path("params.yaml")
MAX_BYTES = 1 << 20
MAX_DEPTH = 20


@dataclass(frozen=True)
class Document:
    """A YAML file: its content and the lines of its keys."""

    path: Path
    tree: Any  # plain dicts, lists, strings, numbers, booleans
    _marked: Any

    def where(self, keys: tuple[Any, ...]) -> str:
        """Returns file:line of the deepest of these nested keys that the document has."""
        node, line = self._marked, 1
        for key in keys:
            try:
                key = int(key) if isinstance(node, CommentedSeq) else key
                line = (node.lc.key(key) if isinstance(node, CommentedMap) else node.lc.item(key))[0] + 1
                node = node[key]
            except (KeyError, IndexError, TypeError, ValueError, AttributeError):
                break
        return f"{self.path}:{line}"

    def place(self, message: str) -> str:
        """Returns file:line of the keys that a message names, as in 'base: family sdxl: unknown key 'pixls'. ...'."""
        start = re.match(r"([a-z_0-9.]+)(?=: )", message)
        keys, rest = (start[1].split("."), message[start.end() :]) if start else ([], message)
        option = re.search(r"unknown key '([\w.]+)'|: ([a-z_][\w.]*): ", rest)
        if option:
            section = self.tree
            for key in keys:
                section = section.get(key) if isinstance(section, dict) else None
            keys += ["options"] if isinstance(section, dict) and "options" in section else []
            keys += (option[1] or option[2]).split(".")
        return self.where(tuple(keys))


def read_yaml(path: Path) -> Document:
    """Reads a YAML file whose top level is a mapping.

    Raises:
        ConfigFault: the file cannot be read, is too large, or is not plain YAML 1.2; the message names file and line.
    """
    try:
        text = path.read_bytes()[: MAX_BYTES + 1].decode("utf-8")
    except OSError as error:
        raise ConfigFault(
            f"{path}: {error.strerror}. Run this beside params.yaml, or create it: palimpsest profile use NAME."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigFault(f"{path}: not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
    if len(text) > MAX_BYTES:
        raise ConfigFault(f"{path}: more than {MAX_BYTES} bytes. Make it shorter.")
    yaml = YAML(typ="rt")
    yaml.version = (1, 2)
    try:
        for event in yaml.parse(text):
            line = event.start_mark.line + 1
            if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
                raise ConfigFault(f"{path}:{line}: anchors and aliases are not allowed here. Write the value out.")
            if isinstance(event, (CollectionStartEvent, ScalarEvent)) and event.tag not in (None, "!"):
                raise ConfigFault(f"{path}:{line}: tags such as {event.tag} are not allowed here. Remove it.")
        marked = yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = (error.problem or error.context or "cannot be read").splitlines()[0]
        raise ConfigFault(f"{path}:{mark.line + 1 if mark else 1}: {reason}.") from None
    if not isinstance(marked, CommentedMap):
        raise ConfigFault(f"{path}:1: expected sections such as 'train:', found {type(marked).__name__}.")
    return Document(path, _plain(marked, path), marked)


def _plain(node: Any, path: Path, depth: int = 0, line: int = 1) -> Any:
    if depth > MAX_DEPTH:
        raise ConfigFault(f"{path}:{line}: more than {MAX_DEPTH} nested levels. Use fewer.")
    if isinstance(node, CommentedMap):
        return {_key(k, node, path): _plain(v, path, depth + 1, node.lc.key(k)[0] + 1) for k, v in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(v, path, depth + 1, line) for v in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if node is None:
        return None
    raise ConfigFault(f"{path}:{line}: {type(node).__name__} values are not allowed here. Quote it: '{node}'.")


def _key(key: Any, node: CommentedMap, path: Path) -> str:
    if not isinstance(key, str):
        raise ConfigFault(
            f"{path}:{node.lc.key(key)[0] + 1}: the key {key!r} is not a string. Quote it or rename it, as in t{key}."
        )
    return str(key)
