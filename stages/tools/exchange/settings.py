"""What the settings of an adapter say about its kind and scale, by the rules of peft, which writes and reads them.

Settings are honoured or refused by name: an adapter that is more than "B A times a scale" by its settings is not
imported. They are untrusted.
"""

from __future__ import annotations

import math
import reprlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from stages.core.family import ModuleName
from stages.files.strict_json import parse_json
from stages.files.untrusted import read_file
from stages.runtime.faults import InputFault, first_line

CONFIG = "adapter_config.json"  # where peft stores them, beside the weights
IN_FILE = "lora_adapter_metadata"  # where diffusers stores them, in the metadata; each key begins with the part
LARGEST = 16.0  # megabytes
DEFAULT_ALPHA = 8  # of peft's LoraConfig
# How training starts; of these, only the adapter is changed. Others (pissa, olora, corda, loftq, lora_ga) also change
# the base, so that the adapter belongs to another base than it names.
STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
# Settings that do not change what an adapter adds to the base, or that are read here. Any other must be off.
KNOWN = {
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"),
    *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "task_type", "inference_mode"),
    *("lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "runtime_config"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size"),
    *("megatron_config", "megatron_core", "ensure_weight_tying"),
}
OFF: tuple[object, ...] = (None, False, 0, "", "none", [], {})
MOST, LONGEST = 10_000, 10_000  # patterns of a setting, and characters of one
SECONDS, ALTOGETHER = 0.2, 30.0  # for one pattern and one name; for all of a setting, of which usual ones take 2


class Patterns:
    """Values by regular expressions, which are untrusted: all matches together take limited time.

    Raises:
        ValueError: a pattern is not a regular expression or too long, its value is no finite number, or there are too
            many.
    """

    def __init__(self, key: str, tree: Mapping[str, Any]) -> None:
        self._left, self._values = ALTOGETHER, dict[str, tuple[Any, float]]()
        given = _mapping(tree.get(key) or {})
        if len(given) > MOST or max(map(len, given), default=0) > LONGEST:
            raise ValueError(f"{key} has more than {MOST} patterns, or one of more than {LONGEST} characters")
        for pattern, value in given.items():
            number = _number(f"{key} {pattern[:80]}", value)
            try:
                self._values[pattern] = regex.compile(rf"(.*\.)?({pattern})$"), number
            except (regex.error, RecursionError) as error:
                raise ValueError(f"pattern {reprlib.repr(pattern)}: {first_line(error)}") from None

    def find(self, name: ModuleName, otherwise: float | None) -> float | None:
        """The value of the first pattern that is the end of the module's name or all of it, as peft matches them.

        Raises:
            ValueError: the patterns take too long.
        """
        names = [one for one in (name.module, name.ending) if one]
        for pattern, (compiled, value) in self._values.items():
            began = time.monotonic()
            try:
                if any(compiled.match(one, timeout=SECONDS) for one in names):
                    return value
            except TimeoutError as error:
                raise ValueError(f"pattern {reprlib.repr(pattern)}: {error or 'takes too long'}") from None
            self._left -= time.monotonic() - began
            if self._left < 0:
                raise ValueError(f"its {len(self._values)} patterns take too long")
        return otherwise


@dataclass(frozen=True)
class Settings:
    """The settings of one model's adapter, checked."""

    alpha: float
    alphas: Patterns
    rank: int | None
    ranks: Patterns
    stabilised: bool  # whether the scale is alpha / sqrt(rank), as in arXiv 2312.03732

    def scale(self, name: ModuleName, rank: int) -> float:
        """The scale of a module whose factors have this rank.

        Raises:
            ValueError: the settings give it another rank, so that peft would not load it.
        """
        stated = self.ranks.find(name, self.rank)
        if stated not in (None, rank):
            raise ValueError(f"r of {name.module} is {stated:g}, its factors have rank {rank}")
        alpha = self.alphas.find(name, self.alpha)
        assert alpha is not None
        return alpha / (math.sqrt(rank) if self.stabilised else rank)


def read_settings(path: Path, kind: str, metadata: Mapping[str, str]) -> dict[str, Settings]:
    """Reads the settings that belong to an adapter file.

    Args:
        path: of its weights.
        kind: diffusers, peft or kohya.
        metadata: of the file.

    Returns:
        Settings by part of the pipeline; under "" those of any part.

    Raises:
        InputFault: they are invalid, or those of another kind of adapter.
    """
    where, trees = str(path), {}
    try:
        if kind == "peft" and (file := path.parent / CONFIG).is_file():
            where, trees = str(file), {"": _mapping(parse_json(read_file(file, LARGEST)))}
        elif kind != "peft":
            for key, value in _mapping(parse_json(metadata.get(IN_FILE, "{}"))).items():
                part, _, setting = key.partition(".")
                trees.setdefault(part, {})[setting] = value
        return {part: _checked(tree) for part, tree in trees.items()}
    except (InputFault, ValueError, TypeError, OverflowError) as error:
        reason = first_line(error)[:300]
        raise InputFault(f"{where}: its adapter settings are invalid: {reason}.") from None


def _checked(tree: Mapping[str, Any]) -> Settings:
    for key, value in tree.items():
        if key == "use_dora" and value:
            raise ValueError("DoRA (use_dora) is not supported, only plain LoRA")
        if key not in KNOWN and value not in OFF:
            raise ValueError(f"{key} is {reprlib.repr(value)}, which plain LoRA does not have")
    if str(tree.get("peft_type", "LORA")) not in ("LORA", "PeftType.LORA"):
        raise ValueError(f"peft_type is {reprlib.repr(tree['peft_type'])}, not LORA")
    if (start := tree.get("init_lora_weights")) not in STARTS:
        raise ValueError(
            f"init_lora_weights is {reprlib.repr(start)}, which changes the base too. Let peft convert it to plain "
            "LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    rank = tree.get("r")
    return Settings(
        alpha=_number("lora_alpha", tree.get("lora_alpha", DEFAULT_ALPHA)),
        alphas=Patterns("alpha_pattern", tree),
        rank=None if rank is None else int(_number("r", rank)),
        ranks=Patterns("rank_pattern", tree),
        stabilised=bool(tree.get("use_rslora")),
    )


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{reprlib.repr(value)} is not a mapping")
    return value


def _number(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{key} is {reprlib.repr(value)}, not a finite number")
    return float(value)
