"""A graph of stages for tests of the engine, which needs no DVC."""

from collections.abc import Callable, Mapping, Sequence


class StageGraph:
    """Stages by name with those that each needs, which only run their command; a subclass may do otherwise."""

    needs: Mapping[str, Sequence[str]]

    def command(self, name: str) -> str:
        return f"python -m {name}"

    def upstream(self, name: str) -> Sequence[str]:
        return self.needs[name]

    def downstream(self, name: str) -> list[str]:
        return [other for other, needed in self.needs.items() if name in needed]

    def update_stage(self, name: str, run: Callable[[], None]) -> str:
        run()
        return "ran"

    def write(self) -> None:
        pass
