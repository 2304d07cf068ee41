"""The commands `palimpsest concept ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.completion import concept_names
from flows.commands.options import Jobs, Json, NoView, help_if_bare, run_options, set_environment

if TYPE_CHECKING:
    from flows.commands.concepts import Change

concept = typer.Typer(help="The concepts: list, add, redo, remove.", invoke_without_command=True, callback=help_if_bare)

NAMES = "one name; with several domains, DOMAIN/NAME for each"
Names = Annotated[list[str], typer.Argument(metavar="NAME", help=NAMES)]
Known = Annotated[list[str], typer.Argument(metavar="NAME", help=NAMES, autocompletion=concept_names)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="don't ask for confirmation")]
Run = Annotated[bool, typer.Option(help="run the study afterwards")]
Plan = Annotated[bool, typer.Option("--plan", help="print what would happen, and change nothing")]


@concept.command("list")
def concept_list(json: Json = False) -> None:
    """Lists the concepts in the order of learning, with their scores."""
    from flows.commands import concept_scores, console

    rows = concept_scores.list_concepts()
    console.as_json(rows) if json else concept_scores.show_list(rows)


Photos = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="a folder with its photos, which is copied into the project")
]


@concept.command("add")
def concept_add(
    names: Names,
    photos: Photos = None,
    yes: Yes = False,
    run: Run = True,
    plan: Plan = False,
    jobs: Jobs = 0,
    no_view: NoView = False,
) -> None:
    """Learns one more concept, after all others."""
    from flows.commands import concepts
    from stages.tools import edit_params
    from stages.tools.edit_params import with_task

    tree = edit_params.tree()
    added = edit_params.by_domain(names, tree["domains"])
    listed, source = ", ".join(added.values()), _photos(photos, added)
    if concepts.added_before(added, source):  # by this command, which was stopped during its run
        change = concepts.Change(lambda text: text, f"{listed} was added before", added)
    else:
        change = concepts.Change(lambda text: with_task(text, added), f"Added {listed}", added, source)
    _change(change, yes, run_options(jobs, no_view) if run else None, plan, jobs)


@concept.command("redo")
def concept_redo(
    name: Annotated[str, typer.Argument(metavar="NAME", help="the concept", autocompletion=concept_names)],
    photos: Photos = None,
    yes: Yes = False,
    run: Run = True,
    plan: Plan = False,
    jobs: Jobs = 0,
    no_view: NoView = False,
) -> None:
    """Learns a concept again, from other photos."""
    from flows.commands import concepts
    from stages.tools import edit_params

    domain, known = edit_params.domain_of(name)
    source = _photos(photos, {domain: known})
    change = concepts.Change(lambda text: text, f"Changed the photos of {known}", photos=source, fresh=False)
    _change(change, yes, run_options(jobs, no_view) if run else None, plan, jobs)


@concept.command("remove")
def concept_remove(
    names: Known, yes: Yes = False, run: Run = True, plan: Plan = False, jobs: Jobs = 0, no_view: NoView = False
) -> None:
    """Removes a concept. Later ones move up and are learned again; its photos stay."""
    from flows.commands import concepts
    from stages.tools import edit_params

    removed = edit_params.by_domain(names, edit_params.tree()["domains"])
    text_after = f"Removed {', '.join(removed.values())}"
    change = concepts.Change(lambda text: edit_params.without_concept(text, removed), text_after)
    _change(change, yes, run_options(jobs, no_view) if run else None, plan, jobs)


def _photos(folder: Path | None, concepts: dict[str, str]) -> tuple[Path, str] | None:
    """The folder of photos and the concept that they are of, as DOMAIN/NAME."""
    domain, name = next(iter(concepts.items()))
    return None if folder is None else (folder, f"{domain}/{name}")


def _change(change: Change, yes: bool, run: list[str] | None, plan: bool, jobs: int) -> None:
    set_environment()
    raise typer.Exit(change.apply(yes, run, plan, jobs))
