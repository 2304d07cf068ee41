"""Finds plug-ins by looking into their folder: a new file with a decorated class is all it takes to add one.

What plug-ins of one kind share lies in a sub-package beneath them, which is not searched.
"""

import importlib
import importlib.util
import json
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from stages.runtime.faults import ConfigFault, nearest
from stages.runtime.strict import Strict, explain

T = TypeVar("T", bound=Strict)


class Registry(Generic[T]):
    """The plug-ins of one kind, by name; the modules of `package` are imported on first use."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._classes: dict[str, type[T]] = {}
        self._complete = False
        self._kept: dict[str, T] | None = None

    def keep_what_is_made(self) -> None:
        """From here on the same name and options give the same object, with whatever it has loaded: for a process that
        runs many stages, while weights stay as they are."""
        self._kept = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        def keep(cls: type[T]) -> type[T]:
            self._classes[name] = cls
            return cls

        return keep

    @property
    def classes(self) -> dict[str, type[T]]:
        """All of them, sorted by name."""
        if not self._complete:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.ispkg:
                    importlib.import_module(f"{self.package}.{module.name}")
            self._complete = True
        return dict(sorted(self._classes.items()))

    def _find(self, name: str) -> bool:
        """Looks first into the file of that name, so that one plug-in is used without importing all."""
        if name not in self._classes and name.isidentifier() and importlib.util.find_spec(f"{self.package}.{name}"):
            importlib.import_module(f"{self.package}.{name}")
        return name in self._classes or name in self.classes

    def make(self, name: str, options: dict[str, Any] | None = None, where: str = "") -> T:
        """The plug-in called `name` with these options.

        Raises:
            ConfigFault: there is none of that name, or an option is unknown, missing or out of range.
        """
        if not self._find(name):
            raise ConfigFault(f"{where}no {self.kind} is called '{name}'. {nearest(name, self.classes)}")
        cls, key = self._classes[name], f"{name} {json.dumps(options, sort_keys=True, default=str)}"
        if self._kept is not None and key in self._kept:
            return self._kept[key]
        try:
            made = cls(**(options or {}))
        except ValidationError as error:
            raise ConfigFault(f"{where}{self.kind} {name}: {explain(error, cls)}") from None
        if self._kept is not None:
            self._kept[key] = made
        return made
