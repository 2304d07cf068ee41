"""What the strategies of a study may know of earlier tasks. Comparisons across regimes are marked everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stages.core.params import Params
from stages.core.strategy import Regime

Regimes = Mapping[str, Regime]  # by strategy; one that is missing is strict
MEANINGS: dict[Regime, str] = {  # what a strategy knows, from the least to the most
    "strict": "the state and the new adapter",
    "words": "also the prompts of earlier concepts",
    "photos": "also the photos of earlier concepts, as a ceiling",
}

AMONG: dict[Regime, str] = {
    "strict": "without earlier data (strict)",
    "words": "with earlier prompts (words)",
    "photos": "with earlier photos (photos, a ceiling)",
}


def of(params: Params) -> dict[str, Regime]:
    """The regime of every strategy of a study."""
    return {name: params.make_strategy(name).knows for name in params.strategies}


def regime(regimes: Regimes, name: str) -> Regime:
    return regimes.get(name, "strict")


def groups(regimes: Regimes, names: Iterable[str]) -> dict[Regime, list[str]]:
    """The strategies by regime, in the order of `MEANINGS`; only those that exist."""
    listed = list(names)
    by_regime = {kind: [name for name in listed if regime(regimes, name) == kind] for kind in MEANINGS}
    return {kind: found for kind, found in by_regime.items() if found}


def mixed(regimes: Regimes) -> bool:
    """Whether the study has strategies of different regimes."""
    return len(set(regimes.values())) > 1


def titled(regimes: Regimes, name: str, title: str = "") -> str:
    """The name of a strategy, or another title for it, with its regime if the study mixes regimes."""
    return f"{title or name} ({regimes[name]})" if mixed(regimes) and name in regimes else title or name


def pair(regimes: Regimes, first: str, second: str) -> str:
    """The name of the difference `second` - `first`, with both regimes if they differ."""
    one, other = regime(regimes, second), regime(regimes, first)
    return f"{second} - {first}" + (f" ({one} - {other})" if one != other else "")


def note(regimes: Regimes) -> str:
    """One line on the regimes of a study."""
    kinds = list(groups(regimes, regimes)) or ["strict"]
    known = "; ".join(f"{kind} ({MEANINGS[kind]})" for kind in kinds)
    if len(kinds) == 1:
        return f"What strategies know of earlier tasks: {known}, for all alike."
    return (
        f"What strategies know of earlier tasks: {known}. Strategies are ranked within a regime; a difference between "
        "regimes is named as one, since it may come from what is known."
    )
