"""Which strategies of a study are variants of one another, and in what they differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.core.params import Params
from stages.core.strategy import Regime
from stages.runtime.formatting import words


@dataclass(frozen=True)
class Variant:
    """A strategy of the study with every value that may differ from another's."""

    name: str
    kind: str  # the plug-in
    regime: Regime
    values: Mapping[str, Any]  # options by name, rehearse.rows, and train.rank: flat, in the order of their classes

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Sweep:
    """Variants of one strategy that differ in one number, and in what changes with it."""

    key: str  # what is varied: "threshold", "train.learning_rate"
    also: tuple[str, ...]  # other keys that change with it, such as alpha with rank
    title: str
    points: tuple[tuple[float, str], ...]  # its value and the strategy, ascending


def variants(params: Params) -> list[Variant]:
    """All strategies of the study, in its order."""
    listed = []
    for name in params.strategies:
        kind, strategy = params.plug_in(name)
        train = params.training(name).model_dump(mode="json", exclude={"checkpoint_every", "processes"})
        options = strategy.model_dump(mode="json")
        listed.append(Variant(name, kind, strategy.knows, dict(_flat({**options, "train": train}))))
    return listed


def _flat(tree: Mapping[str, Any], head: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{key}.")
        else:
            yield f"{head}{key}", json.dumps(value) if isinstance(value, list) else value


def series(params: Params) -> dict[str, list[str]]:
    """The strategies of the study by what they are apart from numbers: one plug-in and its other options."""
    groups: dict[tuple[Any, ...], list[Variant]] = {}
    for variant in variants(params):
        others = {key: value for key, value in variant.values.items() if variant.number(key) is None}
        present = tuple(sorted(key for key in variant.values if key.startswith("rehearse.")))
        groups.setdefault((variant.kind, variant.regime, json.dumps(others, sort_keys=True), present), []).append(
            variant
        )
    return _titled(list(groups.values()))


def sweeps(params: Params) -> list[Sweep]:
    """Every set of two or more variants of one strategy that differ in one number alone."""
    everyone, made = variants(params), list[tuple[str, tuple[str, ...], list[Variant]]]()
    for kind in dict.fromkeys(variant.kind for variant in everyone):
        of_kind = [variant for variant in everyone if variant.kind == kind]
        keys = varied(of_kind)
        numbers = [key for key in keys if all(variant.number(key) is not None for variant in of_kind)]
        tied: set[str] = set()
        for key in (key for key in numbers if key not in tied):
            also = tuple(other for other in keys if other != key and _changes_with(of_kind, key, other))
            tied |= {key, *also}
            rest = [other for other in keys if other != key and other not in also]
            groups: dict[str, list[Variant]] = {}
            for variant in of_kind:
                groups.setdefault(json.dumps([variant.values.get(other) for other in rest]), []).append(variant)
            made += [(key, also, group) for group in groups.values() if len({v.values[key] for v in group}) > 1]
    titles = _titled([group for _, _, group in made])
    listed = []
    for (key, also, group), title in zip(made, titles, strict=True):
        points = sorted((float(variant.values[key]), variant.name) for variant in group)
        listed.append(Sweep(key, also, title, tuple(points)))
    return listed


def by_key(params: Params) -> dict[str, list[Sweep]]:
    """The sweeps by what is varied."""
    groups: dict[str, list[Sweep]] = {}
    for sweep in sweeps(params):
        groups.setdefault(sweep.key, []).append(sweep)
    return groups


def varied(some: Sequence[Variant]) -> list[str]:
    """The keys whose values are not the same for all."""
    keys = dict.fromkeys(key for variant in some for key in variant.values)
    return [key for key in keys if len({variant.values.get(key) for variant in some}) > 1]


def _changes_with(some: Sequence[Variant], key: str, other: str) -> bool:
    """Whether each value of one key has one value of the other, and the other way round."""
    pairs = {(variant.values.get(key), variant.values.get(other)) for variant in some}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _titled(groups: Sequence[Sequence[Variant]]) -> dict[str, list[str]]:
    """The names of groups of variants by title: the plug-in's name, and what distinguishes a group from the others."""
    titles: dict[str, list[str]] = {}
    for group in groups:
        alike = [variant for other in groups if other[0].kind == group[0].kind for variant in other]
        shared = [key for key in varied(alike) if len({variant.values.get(key) for variant in group}) == 1]
        parts = [f"{title_of(key)} {shown(group[0].values[key])}" for key in shared if _says_much(key, group[0], alike)]
        title = ", ".join([words(group[0].kind), *parts])
        titles[title + "'" * sum(other.rstrip("'") == title for other in titles)] = [variant.name for variant in group]
    return titles


def _says_much(key: str, variant: Variant, alike: Sequence[Variant]) -> bool:
    """Of the many keys that only some of the variants have, those with a word as their value do."""
    value = variant.values.get(key)
    return value is not None and (
        all(key in other.values for other in alike) or (isinstance(value, str) and len(value) < 12)
    )


def title_of(key: str) -> str:
    """What a key is called in a chart: "learning rate" for train.learning_rate."""
    return words(key.removeprefix("train.").replace(".", " "))


def shown(value: Any) -> str:
    """A value as in params.yaml, short: 0.0005, 3e-05, earlier."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else words(str(value))
