"""The commands `palimpsest concept ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Jobs, Json, NoView, run_options, set_environment

concept = typer.Typer(help="The concepts: list, add, redo, remove.", no_args_is_help=True)

Names = Annotated[list[str], typer.Argument(metavar="NAME", help="one, or with several domains DOMAIN/NAME of each")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]
Run = Annotated[bool, typer.Option(help="run the study afterwards")]


@concept.command("list")
def concept_list(json: Json = False) -> None:
    """Lists them in the order of learning, with their scores."""
    from flows.commands import concepts, console

    rows = concepts.listed()
    console.as_json(rows) if json else concepts.show_list(rows)


Photos = Annotated[Path | None, typer.Option(help="a folder with its photos, to be copied into the project")]


@concept.command("add")
def concept_add(
    names: Names, photos: Photos = None, yes: Yes = False, run: Run = True, jobs: Jobs = 0, no_view: NoView = False
) -> None:
    """Learns one more, after all others."""
    from flows.commands import concepts
    from stages.tools import edit_params
    from stages.tools.edit_params import with_task

    tree = edit_params.tree()
    found = edit_params.by_domain(names, tree["domains"])
    _change(concepts.Change(lambda text: with_task(text, found), f"Added {', '.join(found.values())}",
                            _photos(photos, found)), yes, run, run_options(jobs, no_view))  # fmt: skip


@concept.command("redo")
def concept_redo(
    name: str, photos: Photos = None, yes: Yes = False, run: Run = True, jobs: Jobs = 0, no_view: NoView = False
) -> None:
    """Learns one again, from other photos."""
    from flows.commands import concepts
    from stages.tools import edit_params

    domain, known = edit_params.domain_of(name)
    found = {domain: known}
    change = concepts.Change(lambda text: text, f"Changed the photos of {known}", _photos(photos, found), fresh=False)
    _change(change, yes, run, run_options(jobs, no_view))


@concept.command("remove")
def concept_remove(names: Names, yes: Yes = False, run: Run = True, jobs: Jobs = 0, no_view: NoView = False) -> None:
    """Forgets one. Those after it move up and are learnt again; its photos stay."""
    from flows.commands import concepts
    from stages.tools import edit_params

    found = edit_params.by_domain(names, edit_params.tree()["domains"])
    gone = ", ".join(found.values())
    change = concepts.Change(lambda text: edit_params.without_concept(text, found), f"Removed {gone}")
    _change(change, yes, run, run_options(jobs, no_view))


def _photos(folder: Path | None, concepts: dict[str, str]) -> tuple[Path, str] | None:
    domain, name = next(iter(concepts.items()))
    return None if folder is None else (folder, f"{domain}/{name}")


def _change(change: object, yes: bool, run: bool, how: list[str]) -> None:
    from flows.commands.concepts import Change

    assert isinstance(change, Change)
    set_environment()
    raise typer.Exit(change.apply(yes, how if run else None))
