"""Values for shell completion, from the files of the project in this folder: nothing slow is imported.

A missing or invalid params.yaml gives no values; the command itself reports it.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from typer import Context
from typer.core import TyperCommand

from stages.runtime.arguments import Parser


@dataclass(frozen=True)
class Value:
    """A value, in the form that Typer expects."""

    value: str
    help: str = ""
    type: str = "plain"


def _tree() -> dict[str, Any]:
    from stages.runtime.faults import ConfigFault
    from stages.tools import edit_params

    with suppress(ConfigFault):
        return edit_params.tree()
    return {}


def run_names() -> list[str]:
    """The runs of the study; a strategy alone stands for its only run."""
    tree = _tree()
    parts = [tree.get(key, ()) for key in ("domains", "orders", "strategies", "seeds")]
    keys = ["/".join(map(str, key)) for key in product(*parts)]
    return keys + (list(map(str, parts[2])) if len(keys) == len(parts[2]) else [])


def task_positions() -> list[str]:
    return [str(task["index"]) for task in _tree().get("tasks", ())]


def concept_names() -> list[str]:
    """The concepts of the study; DOMAIN/NAME if it has several domains."""
    domains = _tree().get("sequences", {})
    names = [(domain, str(name)) for domain, orders in domains.items() for o in orders.values() for name in o.values()]
    return list(dict.fromkeys(f"{domain}/{name}" if len(domains) > 1 else name for domain, name in names))


def profile_names() -> list[str]:
    from stages.tools import profiles

    return sorted(profiles.files(profiles_place()))


def profiles_place() -> Path:
    """The folder whose profiles are shown: this project or, outside of one, the code, from which `init` takes them."""
    from flows.engine.journal import REPOSITORY
    from stages.tools import profiles

    return Path() if profiles.FOLDER.is_dir() else REPOSITORY


def memory_presets() -> list[str]:
    from stages.tools import profiles

    return profiles.presets()


def model_names() -> list[str]:
    from stages.files import model_lock
    from stages.runtime.faults import Fault

    with suppress(Fault):
        return sorted(model_lock.read_lock())
    return []


# By the name that a command's help gives to a value.
VALUES: dict[str, Callable[[], list[str]]] = {
    "RUN": run_names,
    "NN": task_positions,
    "PROFILE": profile_names,
    "MODEL": model_names,
}


class ModuleCommand(TyperCommand):
    """A command that passes its words to a module; completes them with the module's own parser."""

    module = ""

    def shell_complete(self, ctx: Context, incomplete: str) -> Any:  # type: ignore[override]
        module = importlib.import_module(self.module)
        parser = Parser()
        module.arguments(parser)
        return [Value(word, text) for word, text in candidates(parser, ctx.args) if word.startswith(incomplete)]


def candidates(parser: Parser, words: list[str]) -> list[tuple[str, str]]:
    """What can follow these words on the command line of a parser, each with its help."""
    with_value = {name: item for item in parser.items for name in item.option_strings if item.nargs != 0}
    positional, given = [item for item in parser.items if not item.option_strings], 0
    waiting: argparse.Action | None = None  # the option whose value comes next
    for at, word in enumerate(words):
        if waiting or word.startswith("-"):
            waiting = None if waiting else with_value.get(word)
            continue
        verbs = positional[given].choices if given < len(positional) else None
        if isinstance(verbs, dict) and word in verbs:
            return candidates(verbs[word], words[at + 1 :])
        given += 1
    if waiting:
        return _values(waiting)
    texts = {name: item.help or "" for item in parser.items for name in item.option_strings if name.startswith("--")}
    return [pair for item in positional[given : given + 1] for pair in _values(item)] + list(texts.items())


def _values(item: argparse.Action) -> list[tuple[str, str]]:
    known = map(str, item.choices) if item.choices else VALUES.get(str(item.metavar), list[str])()
    return [(value, "") for value in known]
