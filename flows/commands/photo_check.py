"""Finds photos that have been prepared already, and checks new ones before anything runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flows.graph.stage_names import StageName
from stages.core.dataset import Concept, facts_of
from stages.core.params import Params
from stages.core.runs import TaskSequence
from stages.files import artifact
from stages.photos.develop import ROLES, develop, earlier_photos, load_picture
from stages.runtime.faults import Fault

OF_A_PICTURE = ("name", "caption", "source", "licence")


def already_prepared(params: Params) -> list[str]:
    """The prepare stages whose output would not change; decodes the photos of all others.

    Raises:
        InputFault: some photos cannot be used; all of them are listed.
    """
    names = []
    for domain in params.domains:
        for order in params.orders:
            concepts = params.concepts(domain, order)
            for at, task in enumerate(params.tasks):
                folder = TaskSequence(params.study, domain, order).data(task.index)
                if _prepared(folder, concepts[task.index], params):
                    names.append(str(StageName("prepare", domain, order, task=at)))
                else:
                    _check(concepts[task.index], params)
    return names


def _prepared(folder: Path, concept: Concept, params: Params) -> bool:
    """Whether the folder was prepared from exactly these photos, words and settings."""
    try:
        facts = artifact.read(folder, "data")
        how = (params.prepare.resolution, params.prepare.non_default())
        if facts["concept"] != facts_of(concept) or (facts["resolution"], facts.get("prepared", {})) != how:
            return False
        for role in ROLES:
            was = [[entry[key] for key in (*OF_A_PICTURE, "sha256_of_source")] for entry in facts["pictures"][role]]
            pictures = getattr(concept, role)
            now = [[getattr(p, k) for k in OF_A_PICTURE] + [load_picture(p, params.prepare).sha256] for p in pictures]
            if was != now:
                return False
    except (Fault, KeyError, TypeError):
        return False
    return True


def _check(concept: Concept, params: Params) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for warning in develop(concept, params.prepare, Path(folder), earlier_photos((), params.prepare)).warnings:
            print(f"{concept.name}: {warning}")
