"""How long stages take, learnt from those that have run here: for estimates, and to start first what ends last."""

import json
from pathlib import Path

from flows.graph.stage_names import StageName

STORE = Path(".cache", "flow", "times.json")
WEIGHT = 0.3  # of the newest time in the running mean
AT_FIRST = {"train": 15.0, "sample": 3.0, "score": 1.0, "report": 30.0}
OTHERS_AT_FIRST = 0.5


class Times:
    """Seconds by kind of stage: by verb and, since some grow along a sequence, by task."""

    def __init__(self, root: Path) -> None:
        self.path = root / STORE
        try:
            self.measured: dict[str, float] = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            self.measured = {}

    def of(self, name: str) -> float:
        """Seconds of a stage."""
        return self.of_kind(StageName.parse(name).kind)

    def of_kind(self, kind: str) -> float:
        """Seconds of a stage of this kind."""
        return self.measured.get(kind, AT_FIRST.get(kind.partition("-")[0], OTHERS_AT_FIRST))

    def note(self, name: str, seconds: float) -> None:
        """Adds one measurement."""
        kind = StageName.parse(name).kind
        self.measured[kind] = (1 - WEIGHT) * self.measured.get(kind, seconds) + WEIGHT * seconds

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.measured, sort_keys=True, indent=1), "utf-8")
