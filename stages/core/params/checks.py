"""Reads params.yaml and checks what needs no photos and no weights."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stages.core.dataset import Concept, alone, class_prompt, facts_of
from stages.core.family import SamplingOptions, TrainingOptions
from stages.core.params.model import Params
from stages.core.rehearsal import Rehearsal
from stages.core.strategy import chosen
from stages.files.yaml import PARAMS, read_yaml
from stages.runtime.faults import ConfigFault, for_all, nearest
from stages.runtime.strict import Strict, explain, first_error

# Names of variants that stand for something else: folders beside those of strategies, and rows of the results.
TAKEN = ("base", "ceiling", "data")


def load(path: Path = PARAMS) -> Params:
    """Reads params.yaml and checks every rule that needs no photos and no weights.

    Raises:
        ConfigFault: the file is missing, is not plain YAML 1.2, or breaks a rule; the message starts with file:line.
    """
    document = read_yaml(path)
    try:
        params = Params.model_validate_json(json.dumps(document.tree))
    except ValidationError as error:
        keys = tuple(first_error(error)["loc"])
        raise ConfigFault(f"{document.where(keys)}: {_reason(error, keys)}") from None
    try:
        check(params)
    except ConfigFault as fault:
        raise ConfigFault(f"{document.place(str(fault))}: {fault}") from None
    return params


def _reason(error: ValidationError, keys: tuple[Any, ...]) -> str:
    """Returns pydantic's first error, with the known keys of its section."""
    model: type[Strict] = Params
    for key in keys[:-1]:
        kind = getattr(model.model_fields.get(str(key)), "annotation", None)
        if isinstance(kind, type) and issubclass(kind, Strict):
            model = kind
    return explain(error, model)


def check(params: Params) -> None:
    """Checks every rule that needs no photos and no weights.

    Raises:
        ConfigFault: one is broken; the message starts with the key.
    """
    _check_tasks(params)
    _check_strategies(params)
    _check_identity(params)
    data = params.data
    for number, domain in enumerate(params.domains):
        data.check(domain, where=f"domains.{number}: ")
        for place, order in enumerate(params.orders):
            _check_sequence(params, domain, f"orders.{place}", order)
            names = list(params.sequence(domain, order).values())
            for key, name in params.sequences[domain][order].items():
                data.check(domain, name, f"sequences.{domain}.{order}.{key}: ")
            if repeated := ", ".join(sorted({name for name in names if names.count(name) > 1})):
                raise ConfigFault(f"sequences.{domain}.{order}: {repeated} is at two positions. Remove one.")
            concepts = for_all(partial(data.concept, domain), names)  # reports all concepts at once
            _check_tokens(concepts, f"sequences.{domain}.{order}")
            _check_classes(params, concepts)
    check_family(params)


def _check_tasks(params: Params) -> None:
    previous = "00"
    for task in params.tasks:
        if task.previous != previous or int(task.index) != int(previous) + 1:
            expected = f"{int(previous) + 1:02d} after {previous}"
            raise ConfigFault(f"tasks: position {task.index} follows {task.previous}, expected {expected}. Fix it.")
        previous = task.index
    if params.sample.responses and any(task.sees != "data" for task in params.tasks):
        raise ConfigFault("sample.responses: every model must see the same pictures. Set `sees: data` in all tasks.")


def _check_strategies(params: Params) -> None:
    for name in params.sample.schedulers:
        chosen(name, params.strategy.get(name, {}), "sample.schedulers: ")
    for name in TAKEN:
        if name in params.strategy:
            raise ConfigFault(f"strategy.{name}: results have a {name} that is no strategy. Rename the variant.")
    for number, name in enumerate(params.strategies):
        if name not in params.strategy:  # the line to correct is in the list, since section strategy has none for it
            chosen(name, {}, f"strategies.{number}: ")
            raise ConfigFault(f"strategies.{number}: section strategy has no {name}. Add `{name}: {{}}` to it.")
    for name in sorted({*params.strategies, *params.strategy}):
        params.make_strategy(name)
        _check_rank(params, name)


def _check_classes(params: Params, concepts: list[Concept]) -> None:
    """Checks that there are words for a class where a strategy needs them, and no concept's word where it has none."""
    for name in params.strategies:
        prior, rehearse = params.training(name).prior, params.make_strategy(name).rehearse
        for concept, facts in zip(concepts, map(facts_of, concepts), strict=True):
            if prior:
                class_prompt(prior.prompt, facts)
            if rehearse and rehearse.needs_classes:
                class_prompt(None, facts, f"strategy.{name}.rehearse")
            if said := next((one for one in _generic(rehearse) if alone(concept.token).search(one)), None):
                raise ConfigFault(
                    f"strategy.{name}.rehearse.captions: '{said}' has the word of {concept.name}. Rehearse "
                    "`prompts: earlier`, or remove it."
                )


def _generic(rehearse: Rehearsal | None) -> tuple[str, ...]:
    return rehearse.captions if rehearse and rehearse.prompts == "generic" else ()


def _check_sequence(params: Params, domain: str, key: str, order: str) -> None:
    orders = params.sequences.get(domain, {})
    if not orders:
        raise ConfigFault(f"sequences: there is none for domain '{domain}'. {nearest(domain, params.sequences)}")
    if order not in orders:
        raise ConfigFault(f"{key}: there is no sequences.{domain}.{order}. {nearest(order, orders)}")
    if wrong := [place for place in orders[order] if not re.fullmatch(r"t\d\d", place)]:
        raise ConfigFault(f"sequences.{domain}.{order}.{wrong[0]}: is no position. Positions are t01, t02 and so on.")


def _check_identity(params: Params) -> None:
    judges, identity = params.judges, params.report.identity
    usable = [name for name, judge in judges.items() if judge.recognises]
    if identity not in judges:
        raise ConfigFault(f"report.identity: '{identity}' is not in score.metrics. {nearest(identity, judges)}")
    if identity not in usable:
        raise ConfigFault(
            f"report.identity: '{identity}' cannot tell concepts apart: it compares with the prompt, or stores no "
            f"vectors of pictures. {nearest(identity, usable)}"
        )


def _check_tokens(concepts: list[Concept], where: str) -> None:
    tokens: dict[str, str] = {}
    for concept in concepts:
        other = tokens.setdefault(concept.token, concept.name)
        if other != concept.name:
            raise ConfigFault(f"{where}: {other} and {concept.name} share the token '{concept.token}'. Change one.")


def check_family(params: Params) -> None:
    """Refuses schedulers and options that the family would ignore; errors as in `check`."""
    family, base, sample = params.family, params.base.name, params.sample
    overrides = {f"sample.schedulers.{name}": value for name, value in sample.schedulers.items()}
    for key, scheduler in ({"sample.scheduler": sample.scheduler} | overrides).items():
        if scheduler not in family.schedulers:
            known = nearest(scheduler, family.schedulers)
            raise ConfigFault(f"{key}: base {base} has no scheduler '{scheduler}'. {known}")
    if sample.guided < 1 and sample.guidance == 1:
        raise ConfigFault("sample.guided: guidance is 1, which is none, so it cannot end early. Remove it.")
    for section, kind, options, read in (
        ("train", TrainingOptions, params.train, family.training_options),
        ("sample", SamplingOptions, sample, family.sampling_options),
    ):
        for option, field in kind.model_fields.items():
            value = getattr(options, option)
            if value != field.default and option not in read:
                raise ConfigFault(
                    f"{section}.{option}: base {base} does not read it, so it cannot be {value!r}. Remove it; of such "
                    f"options it reads: {', '.join(sorted(read)) or 'none'}."
                )


def _check_rank(params: Params, strategy: str) -> None:
    width, module = min((min(shape), name) for name, shape in params.family.shapes().items())
    rank = params.training(strategy).rank
    where = "train.rank" if rank == params.train.rank else f"strategy.{strategy}.train.rank"
    if rank > width:
        raise ConfigFault(f"{where}: {rank} is more than the width of {module}, {width}. Lower it.")
