"""Every text that the base reads in a study, and a check that it can read them, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.core.dataset import class_prompt, facts_of, fill, training_captions, words_for
from stages.core.params import Params
from stages.sampling.reading import check_prompts, noted, sampled_texts, unread, warning
from stages.training.rehearsal import prompts as rehearsed


def trained_texts(
    params: Params, strategy: str, learned: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Returns all texts that a task is trained with.

    Args:
        params: of the study.
        strategy: by its name in params.yaml.
        learned: the manifests of the data that it trains on.
        earlier: the facts of the concepts before, for strategies that rehearse their prompts.
    """
    texts = []
    for data in learned:
        texts += training_captions(data)
        if prior := params.training(strategy).prior:
            texts.append(class_prompt(prior.prompt, data["concept"]))
    if rehearse := params.make_strategy(strategy).rehearse:
        texts += rehearsed(params.family, rehearse, [*earlier, learned[-1]["concept"]])
    return list(dict.fromkeys(texts))


def unread_texts(
    params: Params, strategy: str, learned: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns what is not read of `trained_texts`, as facts for the manifest; also logs it."""
    return noted(params.family, trained_texts(params, strategy, learned, earlier))


def check_texts(params: Params) -> list[str]:
    """Checks that the base reads every text of a study in full.

    Returns:
        A line for each text that is not read in full.

    Raises:
        ConfigFault: two prompts of a concept differ only where they are not read.
        Fault: a concept cannot be read.
    """
    where: dict[str, str] = {}
    for domain in params.domains:
        for order in params.orders:
            for concept in params.concepts(domain, order).values():
                facts, name = facts_of(concept), f"{domain}/{concept.name}"
                check_prompts(params.family, facts)
                texts, captions = sampled_texts(params, facts), [{"caption": p.caption} for p in concept.training]
                data = {"concept": facts, "pictures": {"training": captions}}
                for strategy in params.strategies:
                    texts += trained_texts(params, strategy, [data], [facts])
                if params.watch.previews_every:
                    texts += [fill(prompt, words_for(facts)) for prompt in params.watch.prompts]
                where |= {text: name for text in texts if text not in where}
    return [f"{where[text]}: {warning(text, lost)}" for text, lost in unread(params.family, where).items()]
