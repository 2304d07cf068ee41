"""Reads YAML 1.2 as DVC does, strictly: no anchors, merge keys, tags, directives, duplicate keys or control characters.

Limits are checked before anything is built. Records the line of every key.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, DocumentStartEvent, ScalarEvent
from ruamel.yaml.parser import RoundTripParser
from ruamel.yaml.reader import ReaderError

from stages.files.untrusted import read_file
from stages.runtime.faults import UNPRINTABLE, ConfigFault, InputFault

PARAMS = Path("params.yaml")
JUDGES = frozenset({"path", "detector"})  # options of a metric that name weights, relative to score.judges
MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_EVENTS = 100_000  # a study of 99 tasks in 100 orders has a fifth of that
LONGEST_SHOWN = 40  # characters of a value in a message
LONGEST_NUMBER = 400  # characters; Python refuses to read numbers of 4,300 digits
NUMBER = re.compile(r"[-+]?[0-9][0-9_]*")


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
    """Reads a YAML file whose top level is a mapping, if DVC reads the same values from it.

    Raises:
        ConfigFault: the file cannot be read, is too large, or is not plain YAML 1.2; the message names file and line.
    """
    if not path.exists():
        raise ConfigFault(
            f"{path}: No such file. Run this in a project's folder, or make one: palimpsest init my-study."
        )
    try:
        text = read_file(path, MAX_BYTES / (1 << 20)).decode("utf-8")
    except InputFault as fault:
        raise ConfigFault(f"{path}: {fault}") from None
    except UnicodeDecodeError as error:
        raise ConfigFault(f"{path}: not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
    try:
        marked, theirs = _reader().load(text), YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = (error.problem or error.context or "cannot be read").splitlines()[0]
        raise ConfigFault(f"{path}:{mark.line + 1 if mark else 1}: {reason}.") from None
    except YAMLError as error:  # control characters
        line = text[: getattr(error, "position", 0)].count("\n") + 1
        reason = f"control character U+{error.character:04X}" if isinstance(error, ReaderError) else str(error)
        raise ConfigFault(f"{path}:{line}: {reason.splitlines()[0][:200]}. Remove it.") from None
    if not isinstance(marked, CommentedMap):
        raise ConfigFault(f"{path}:1: expected sections such as 'train:', found {type(marked).__name__}.")
    tree = _plain(marked, path)
    if tree != theirs:
        raise ConfigFault(f"{path}:1: DVC would read other values from this file. Write it as plain YAML 1.2.")
    return Document(path, tree, marked)


class _Parser(RoundTripParser):
    """Refuses, event by event, whatever is not plain YAML or takes long to build, before anything is built from it.

    A directive, such as %YAML 1.1, and a merge key, <<, would make two readers see different values.
    """

    _events = _depth = 0

    def get_event(self) -> Any:
        event = super().get_event()
        if problem := self._problem(event):
            raise MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self._events += 1
        return event

    def _problem(self, event: Any) -> str:
        """Why an event is refused; empty if it is not."""
        if isinstance(event, DocumentStartEvent) and (event.version or event.tags):
            return "directives such as %YAML are not allowed here. Remove the line"
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            return "anchors and aliases are not allowed here. Write the value out"
        if isinstance(event, (CollectionStartEvent, ScalarEvent)) and event.tag not in (None, "!"):
            return f"tags such as {event.tag} are not allowed here. Remove it"
        if isinstance(event, ScalarEvent) and event.style is None:
            if event.value == "<<":
                return "merge keys are not allowed here. Write the values out"
            if len(event.value) > LONGEST_NUMBER and NUMBER.fullmatch(event.value):
                return f"a number of {len(event.value)} digits. Write a shorter one"
        self._depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if self._depth > MAX_DEPTH:
            return f"more than {MAX_DEPTH} nested levels. Use fewer"
        return f"more than {MAX_EVENTS} values. Make it shorter" if self._events > MAX_EVENTS else ""


class _Constructor(RoundTripConstructor):
    """Names the place of a value that looks like a number or a date and is none, such as -_ or 2026-99-99."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, IndexError) as error:  # the latter where no digit follows a sign
            is_date = isinstance(error, ValueError) and not str(error).startswith(("could not", "invalid literal"))
            reason = str(error) if is_date else "neither a number nor text"
            problem = f"{str(node.value)[:LONGEST_SHOWN]} cannot be read: {reason}. Put it in quotes"
            raise MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


def _reader() -> YAML:
    yaml = YAML(typ="rt")
    yaml.version, yaml.Parser, yaml.Constructor = (1, 2), _Parser, _Constructor
    return yaml


def _plain(node: Any, path: Path, line: int = 1) -> Any:
    """The value as plain Python objects."""
    if isinstance(node, CommentedMap):
        return {_key(k, node, path): _plain(v, path, node.lc.key(k)[0] + 1) for k, v in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(v, path, line) for v in node]
    if isinstance(node, str):
        return _printable(str(node), path, line)
    if isinstance(node, float) and not math.isfinite(node):
        raise ConfigFault(f"{path}:{line}: {node} is not a finite number. Write one.")
    if isinstance(node, int) and not isinstance(node, bool) and abs(node) >= 1 << 63:
        raise ConfigFault(f"{path}:{line}: a number with more than 63 bits. Write a smaller one.")
    for kind in (bool, int, float):
        if isinstance(node, kind):
            return kind(node)
    if node is None:
        return None
    raise ConfigFault(f"{path}:{line}: {type(node).__name__} values are not allowed here. Quote it: '{node}'.")


def _printable(text: str, path: Path, line: int) -> str:
    """Returns text that is printed and becomes part of prompts and paths: of control characters it may have line ends
    and tabs."""
    for letter in text:
        if unicodedata.category(letter) in UNPRINTABLE and letter not in "\t\n":
            raise ConfigFault(f"{path}:{line}: control character U+{ord(letter):04X}. Remove it.")
    return text


def _key(key: Any, node: CommentedMap, path: Path) -> str:
    line = node.lc.key(key)[0] + 1
    if not isinstance(key, str):
        raise ConfigFault(f"{path}:{line}: the key {key!r} is not a string. Quote it or rename it, as in t{key}.")
    return _printable(str(key), path, line)
