"""The commands `palimpsest profile ...`."""

from __future__ import annotations

from contextlib import chdir
from typing import Annotated

import typer

from flows.commands.completion import memory_presets, profile_names, profiles_place
from flows.commands.options import Json, help_if_bare

profile = typer.Typer(
    help="Studies to start from: list, show, use.", invoke_without_command=True, callback=help_if_bare
)


Memory = Annotated[
    str | None,
    typer.Option(metavar="GB", help="settings for this much GPU memory: 12, 16, 24, 80", autocompletion=memory_presets),
]
ProfileName = Annotated[
    str, typer.Argument(metavar="NAME", help="one of palimpsest profile list", autocompletion=profile_names)
]


@profile.command("list")
def profile_list(json: Json = False) -> None:
    """Lists the profiles, by group."""
    from flows.commands import console
    from stages.tools import profiles

    with chdir(profiles_place()):
        grouped = profiles.groups().items()
        groups = {group: [(name, profiles.summary(name)) for name in names] for group, names in grouped}
    if json:
        console.as_json({name: text for rows in groups.values() for name, text in rows})
    else:
        for group, rows in groups.items():
            console.table(("profile", "description"), rows, group)
        here = profiles.FOLDER.is_dir()
        console.next_steps("palimpsest profile use NAME" if here else "palimpsest init my-study --profile NAME")


@profile.command("show")
def profile_show(name: ProfileName, memory: Memory = None) -> None:
    """Prints the params.yaml of a profile."""
    from stages.tools import profiles

    with chdir(profiles_place()):
        print(profiles.text(name, memory), end="")


@profile.command("use")
def profile_use(
    name: ProfileName,
    memory: Memory = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite a params.yaml that was edited")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="don't print the next steps")] = False,
) -> None:
    """Writes a profile to params.yaml. Results of other studies stay."""
    from flows.commands import console
    from stages.files import model_lock
    from stages.files.undo import locked
    from stages.runtime.faults import ConfigFault
    from stages.tools import profiles

    if not profiles.FOLDER.is_dir():
        missing = f"{profiles.FOLDER}: missing, so this folder is no project"
        raise ConfigFault(f"{missing}. Create one: palimpsest init my-study --profile {name}.")
    with locked():
        changed = profiles.use(name, force, memory)
    chosen = name + (f" for {memory} GB" if memory else "")
    print(f"params.yaml is now {chosen}." if changed else f"params.yaml is {chosen} already.")
    if quiet:
        return
    lock = model_lock.read_lock()
    needed = [
        model
        for model in model_lock.models_used(profiles.tree(name), lock)
        if model_lock.missing_files(model, lock[model])
    ]
    console.next_steps(*([f"make weights PROFILE={name}"] if needed else []), "palimpsest plan", "palimpsest run")
