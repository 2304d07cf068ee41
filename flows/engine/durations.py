"""How long stages take, learnt from those that have run here: for estimates, and to begin with what ends last."""

import json
import re
from pathlib import Path

from flows.graph.stage_names import kind
from stages.files.writing import write_file

STORE = Path(".cache", "flow", "times.json")
WEIGHT = 0.3  # of the newest time in the running mean
AT_FIRST = {"train": 15.0, "sample": 3.0, "score": 1.0, "report": 30.0}


class Times:
    """Seconds by verb and, for what grows along a sequence, by task."""

    def __init__(self, root: Path) -> None:
        self.path = root / STORE
        try:
            self.known: dict[str, float] = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def of(self, name: str) -> float:
        """Seconds of a stage, or of a kind of stages."""
        return self.known.get(kind(name), AT_FIRST.get(re.split("[@-]", name)[0], 0.5))

    def note(self, name: str, seconds: float) -> None:
        self.known[kind(name)] = (1 - WEIGHT) * self.known.get(kind(name), seconds) + WEIGHT * seconds

    def save(self) -> None:
        write_file(self.path, json.dumps(self.known, sort_keys=True, indent=1), durable=False)
