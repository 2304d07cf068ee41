"""Registries of plug-ins. A new file with a decorated class in the plug-ins' folder is enough to add one.

Sub-packages are not searched: code shared by plug-ins of one kind goes there.
"""

import ast
import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from stages.runtime.faults import ConfigFault, Fault, first_line, nearest
from stages.runtime.strict import Strict, explain

T = TypeVar("T", bound=Strict)


class Registry(Generic[T]):
    """The plug-ins of one kind by name. The modules of `package` are imported on first use.

    Args:
        kind: what messages call such a plug-in.
        package: the package whose modules define the plug-ins.
        cache_size: how many instances `get` caches; the least recently used is dropped.
        dropped: called when that happens.
    """

    def __init__(
        self, kind: str, package: str, cache_size: int = 8, dropped: Callable[[], object] = lambda: None
    ) -> None:
        self.kind, self.package, self.cache_size, self._dropped = kind, package, cache_size, dropped
        self._classes: dict[str, type[T]] = {}
        self._complete = False
        self._cache: dict[tuple[Any, ...], T] = {}  # most recently used last
        self._substitutes: dict[str, T] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Returns a class decorator that registers a plug-in under this name, which is that of its file."""

        def add(cls: type[T]) -> type[T]:
            folder, _, file = cls.__module__.rpartition(".")
            if folder == self.package and file != name:  # two files could have the same name for theirs
                raise ConfigFault(f"{_path(cls.__module__)}: registers '{name}'. Name the file {name}.py.")
            if not issubclass(cls, Strict):
                raise ConfigFault(f"{_path(cls.__module__)}: {cls.__name__} is no {self.kind}. Derive it from one.")
            self._classes[name] = cls
            return cls

        return add

    @property
    def classes(self) -> dict[str, type[T]]:
        """All plug-ins, sorted by name."""
        if not self._complete:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.ispkg:
                    _load(f"{self.package}.{module.name}")
            self._complete = True
        return dict(sorted(self._classes.items()))

    def _find(self, name: str) -> bool:
        """Imports the file of that name first, so that using one plug-in does not import all."""
        if name not in self._classes and name.isidentifier() and importlib.util.find_spec(f"{self.package}.{name}"):
            _load(f"{self.package}.{name}")
        return name in self._classes or name in self.classes

    def get(self, name: str, options: dict[str, Any] | None = None, where: str = "") -> T:
        """Returns a cached instance: the same one for the same options, with everything it has loaded.

        If an option names a file or folder whose content has changed, a new instance is made.

        Args and errors: as `make`.
        """
        if name in self._substitutes:
            return self._substitutes[name]
        new = self.make(name, options, where)
        key = (type(new), new.model_dump_json(), *_file_states(new))
        instance = self._cache[key] = self._cache.pop(key, new)
        while len(self._cache) > self.cache_size:
            del self._cache[next(iter(self._cache))]
            self._dropped()
        return instance

    def sources(self, name: str) -> dict[str, Path]:
        """Returns the files of a known plug-in by module: its own first, then those of its folder that it imports."""
        found: dict[str, Path] = {}
        waiting = [self._classes[name].__module__]
        while waiting:
            module = waiting.pop()
            if module not in found and (path := _file_of(module)):
                found[module] = path
                waiting += [other for other in _imports(module, path) if other.startswith(f"{self.package}.")]
        return found

    @contextmanager
    def substitute(self, name: str, instance: T) -> Iterator[None]:
        """Makes `get` return this instance for the name within the block, whatever the options; for tests."""
        before = self._substitutes
        self._substitutes = {**before, name: instance}
        try:
            yield
        finally:
            self._substitutes = before

    def make(self, name: str, options: dict[str, Any] | None = None, where: str = "") -> T:
        """Makes a new instance of the plug-in `name` with these options.

        Args:
            where: put before error messages, for instance "dataset: ".

        Raises:
            ConfigFault: there is no such plug-in, it lacks a method, or an option is unknown, missing or out of range.
        """
        if not self._find(name):
            raise ConfigFault(f"{where}no {self.kind} is called '{name}'. {nearest(name, self.classes)}")
        cls = self._classes[name]
        try:
            return cls(**(options or {}))
        except ValidationError as error:
            raise ConfigFault(f"{where}{self.kind} {name}: {explain(error, cls)}") from None
        except TypeError as error:  # it lacks a method
            raise ConfigFault(f"{_path(cls.__module__)}: {first_line(error)}. Mend it.") from error


def _load(module: str) -> None:
    """Imports the file of a plug-in.

    Raises:
        ConfigFault: that fails.
    """
    try:
        importlib.import_module(module)
    except Fault:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigFault(f"{_path(module)}: cannot be imported ({reason}). Mend or remove it.") from error


def _file_of(module: str) -> Path | None:
    """The file of a module; None if there is none of that name."""
    with suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec(module)
        return Path(spec.origin) if spec and spec.origin else None
    return None


def _imports(module: str, file: Path) -> Iterator[str]:
    """The names that a module imports, anywhere in its file: of modules, and of what is in them."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _path(module: str) -> str:
    return f"{module.replace('.', '/')}.py"


def _file_states(plug_in: Strict) -> Iterator[tuple[str, int, int, int, int]]:
    """Path, inode, size and times of every file that an option names, or that is in a folder it names."""
    for option in (value for value in plug_in.model_dump().values() if isinstance(value, str) and value):
        contents = [os.path.join(folder, name) for folder, _, names in os.walk(option) for name in names]
        for path in sorted([option, *contents]):
            with suppress(OSError, ValueError):
                status = os.stat(path)
                yield path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
