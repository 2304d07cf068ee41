"""DVC's run-cache, which a kill can leave with half an entry.

DVC makes the folder of an entry, writes the entry in it under another name, and gives it its own. Killed on the way, it
takes the draft for an entry, or ends with a TypeError for want of one, and so again at every later attempt.
"""

from pathlib import Path
from typing import Any

from dvc.stage import PipelineStage
from dvc.stage.cache import StageCache, _get_stage_hash

DRAFT = ".tmp"


class RunCache(StageCache):  # type: ignore[misc]
    def newest(self, key: str) -> Any:
        """What the last run of this command on these inputs has made, as dvc.lock would say it; None without one."""
        entries = [path for path in Path(self._get_cache_dir(key)).glob("*") if path.suffix != DRAFT]
        by_age = sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)
        return next(filter(None, (self._load_cache(key, path.name) for path in by_age)), None)

    def _load(self, stage: PipelineStage) -> Any:
        return self.newest(_get_stage_hash(stage))
