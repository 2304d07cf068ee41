"""Finds plug-ins by looking into their folder: a new file with a decorated class is all it takes to add one.

What plug-ins of one kind share lies in a sub-package beneath them, which is not searched.
"""

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from stages.runtime.faults import ConfigFault, nearest
from stages.runtime.strict import Strict, explain

T = TypeVar("T", bound=Strict)


class Registry(Generic[T]):
    """The plug-ins of one kind, by name; the modules of `package` are imported on first use.

    Args:
        remembers: how many instances `get` has ready, those used last.
    """

    def __init__(self, kind: str, package: str, remembers: int = 8) -> None:
        self.kind, self.package, self.remembers = kind, package, remembers
        self._classes: dict[str, type[T]] = {}
        self._complete = False
        self._made: dict[tuple[Any, ...], T] = {}  # the one used last at the end
        self._put: dict[str, T] = {}

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

    def get(self, name: str, options: dict[str, Any] | None = None, where: str = "") -> T:
        """As `make`, but the same instance for the same options, with whatever it has loaded.

        Where an option names a file or folder and something in it has changed, it is another instance.
        """
        if name in self._put:
            return self._put[name]
        fresh = self.make(name, options, where)
        key = (type(fresh), fresh.model_dump_json(), *_files(fresh))
        made = self._made[key] = self._made.pop(key, fresh)
        while len(self._made) > self.remembers:
            del self._made[next(iter(self._made))]
        return made

    @contextmanager
    def put(self, name: str, instance: T) -> Iterator[None]:
        """Within the block `get` returns this instance for the name, whatever the options: for tests and benchmarks."""
        before = self._put
        self._put = {**before, name: instance}
        try:
            yield
        finally:
            self._put = before

    def make(self, name: str, options: dict[str, Any] | None = None, where: str = "") -> T:
        """A new instance of the plug-in called `name` with these options.

        Raises:
            ConfigFault: there is none of that name, or an option is unknown, missing or out of range.
        """
        if not self._find(name):
            raise ConfigFault(f"{where}no {self.kind} is called '{name}'. {nearest(name, self.classes)}")
        cls = self._classes[name]
        try:
            return cls(**(options or {}))
        except ValidationError as error:
            raise ConfigFault(f"{where}{self.kind} {name}: {explain(error, cls)}") from None


def _files(plug_in: Strict) -> Iterator[tuple[str, int, int, int, int]]:
    """Of every file that an option names, or in a folder that it names: what changes when its content does."""
    for option in (value for value in plug_in.model_dump().values() if isinstance(value, str) and value):
        within = [os.path.join(folder, name) for folder, _, names in os.walk(option) for name in names]
        for path in sorted([option, *within]):
            with suppress(OSError, ValueError):
                status = os.stat(path)
                yield path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
