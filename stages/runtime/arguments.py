"""Command lines of stages and tools: argparse, with errors in one line and the most similar option for a typo."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from stages.runtime.exits import EXIT_CODES
from stages.runtime.faults import ConfigFault, nearest


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as for all other errors, with exit code 2."""

    def __init__(self, **options: Any) -> None:
        layout = {"epilog": EXIT_CODES, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**{**layout, **options})

    @property
    def options(self) -> list[str]:
        """The long options that it accepts."""
        return sorted(name for name in self._option_string_actions if name.startswith("--"))

    @property
    def items(self) -> list[argparse.Action]:
        """Its arguments and options, in the order in which they were added."""
        return list(self._actions)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parses the arguments. Refuses an unknown option first: it often explains why another one is missing."""
        words = sys.argv[1:] if args is None else list(args)
        if not any(isinstance(item, argparse._SubParsersAction) for item in self.items):  # those check their own
            for word in words[: words.index("--")] if "--" in words else words:
                name = word.partition("=")[0]
                if name.startswith("--") and not any(option.startswith(name) for option in self.options):
                    self.error(f"unknown option {name}. {nearest(name, self.options)}")
        parsed, extra = super().parse_known_args(words, namespace)
        if extra:
            self.error(f"unexpected argument '{extra[0]}'.")
        return parsed, extra

    def error(self, message: str) -> NoReturn:
        print(f"error: {message.rstrip('.')}. See {self.prog} --help.", file=sys.stderr)
        self.exit(ConfigFault.code)
