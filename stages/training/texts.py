"""Every text that the base reads in a study, and a check that it can read them, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.core.dataset import class_prompt, facts_of, fill
from stages.core.params import Params
from stages.sampling.reading import check_prompts, sampled_texts, unread, warning
from stages.training.rehearsal import prompts as rehearsed


def trained_texts(
    params: Params,
    strategy: str,
    concept: Mapping[str, Any],
    captions: Sequence[str | None],
    earlier: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Returns all texts that a task is trained with.

    Args:
        params: of the study.
        strategy: by its name in params.yaml.
        concept: the facts of the concept to learn.
        captions: of its pictures; None where the training prompt stands for it.
        earlier: the facts of the concepts before, for strategies that rehearse their prompts.
    """
    texts = [caption or concept["training_prompt"] for caption in captions]
    if prior := params.training(strategy).prior:
        texts.append(class_prompt(prior.prompt, concept))
    if rehearse := params.make_strategy(strategy).rehearse:
        texts += rehearsed(rehearse, earlier)
    return list(dict.fromkeys(texts))


def check_texts(params: Params) -> list[str]:
    """Checks that the base reads every text of a study in full.

    Returns:
        A line for each text of which words are lost.

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
                texts, captions = sampled_texts(params, facts), [picture.caption for picture in concept.training]
                for strategy in params.strategies:
                    texts += trained_texts(params, strategy, facts, captions, [facts])
                if params.watch.previews_every:
                    words = " ".join(filter(None, (concept.token, concept.noun)))
                    texts += [fill(prompt, words) for prompt in params.watch.prompts]
                where |= {text: name for text in texts if text not in where}
    return [f"{where[text]}: {warning(text, lost)}" for text, lost in unread(params.family, where).items()]
