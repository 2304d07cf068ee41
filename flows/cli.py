"""The command `palimpsest`. Slow imports happen only in the commands that need them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.completion import ModuleCommand, profile_names, run_names
from flows.commands.concept_group import concept
from flows.commands.options import Jobs, Json, NoView, help_if_bare, run_options, set_environment
from flows.commands.profile_group import profile
from flows.trust import own_code
from stages.runtime.exits import EXIT_CODES, INTERRUPTED, attempt
from stages.runtime.faults import ConfigFault, nearest

NAME = "palimpsest"
# Commands that run a module with its own arguments; a command exists if its module does.
MODULES = {
    "export": ("stages.tools.export", "Exports a run as a LoRA file."),
    "import": ("stages.tools.import_lora", "Imports a LoRA trained elsewhere."),
    "forecast": ("stages.tools.forecast", "Estimates hours, disk and memory."),
    "paint": ("stages.tools.paint", "Samples any prompt, after any task."),
    "fetch": ("stages.tools.fetch", "Downloads the weights of a profile."),
    "standin": ("stages.tools.random_sdxl", "Writes an SDXL with random weights."),
    "study": ("stages.tools.survey", "Makes and reads a blind comparison."),
}
ONLINE = ("fetch",)  # may connect to a model hub

app = typer.Typer(
    name=NAME,
    help="Teaches an image generator one concept after another, and measures how much of the earlier ones still shows.",
    epilog=EXIT_CODES,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"{NAME} {importlib.metadata.version(NAME)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{NAME}, run from {Path(__file__).resolve().parent.parent}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    help_if_bare(context)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder")],
    profile: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="the study to start from: palimpsest profile list", autocompletion=profile_names
        ),
    ] = "",
    photos: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="a folder with one folder of photos per concept")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="link to this code instead of copying it")] = False,
) -> None:
    """Creates a project folder with a study."""
    from flows.commands import console, new_project

    chosen = profile or (new_project.OWN if photos else "toy-objects")
    names = new_project.make(folder, chosen, photos, link)
    if link:
        print(f"{folder}: created from profile {chosen}, with links to the code.")
        return
    print(f"{folder}: created from profile {chosen}, with a copy of the code.")
    if names:
        print(f"It learns, in this order: {', '.join(names)}.")
    elif chosen == new_project.OWN:
        target = folder / new_project.PHOTOS
        print(f"Put one folder of photos per concept into {target}, and list them in {folder}/params.yaml: sequences.")
    if not profile:
        print("Its base model is the embedded one, which draws 64 pixels. For SDXL on a GPU: --profile sdxl-quick.")
    console.next_steps(f"cd {folder}", "palimpsest plan   what would run, and for how long", "palimpsest run")


@app.command("trust")
def trust_project(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", show_default=False, help="the project; default: this folder")
    ] = Path(),
) -> None:
    """Lets a project made by somebody else run its own code."""
    from flows.trust import trust

    listed = trust(folder)
    print(f"{folder.resolve()}: trusted; palimpsest runs its copy of the code there. The list is {listed}.")


@app.command()
def plan(json: Json = False) -> None:
    """Shows what would run, why, and for how long."""
    from flows.commands.plan import show

    show(json)


@app.command()
def run(
    only: Annotated[
        str,
        typer.Argument(
            metavar="RUN", autocompletion=run_names, help="only this run: DOMAIN/ORDER/STRATEGY/SEED, or a strategy"
        ),
    ] = "",
    jobs: Jobs = 0,
    devices: Annotated[str, typer.Option(metavar="LIST", help="GPUs to use, as in CUDA_VISIBLE_DEVICES")] = "",
    share: Annotated[bool, typer.Option("--share", help="exchange results with DVC's remote")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="print what would run, and run nothing")] = False,
    no_view: NoView = False,
) -> None:
    """Runs what is not up to date. After a kill, run it again to continue."""
    options = run_options(jobs, no_view, devices=devices, share=share, plan=plan)
    _module("run", "flows.study", [*([only] if only else []), *options])


@app.command()
def status(json: Json = False) -> None:
    """Shows what is done, running and to do, and the last errors."""
    from flows.commands import console
    from flows.commands.status import read_status, show

    facts = read_status()
    console.as_json(facts) if json else show(facts)


@app.command()
def report(
    json: Json = False,
    browser: Annotated[bool, typer.Option("--open/--no-open")] = True,
    against: Annotated[str, typer.Option(metavar="STUDY", help="compare with this study's report")] = "",
) -> None:
    """Prints the result table and opens the report."""
    from flows.commands import show_report

    show_report.show_against(against, json, browser) if against else show_report.show(json, browser)


@app.command()
def doctor(json: Json = False) -> None:
    """Checks this machine: libraries, GPU, disk, weights."""
    from dataclasses import asdict

    from flows.commands import console
    from flows.commands.doctor import examine

    findings = list(examine())
    if json:
        console.as_json([asdict(one) for one in findings])
    else:
        console.table(("", "", ""), [(one.how, one.what, one.message) for one in findings])
    if code := max(one.code for one in findings):
        raise typer.Exit(code)
    if not json:
        console.next_steps("palimpsest plan")


@app.command()
def watch(
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="0: any free one")] = 0,
    browser: Annotated[bool, typer.Option("--open/--no-open")] = True,
) -> None:
    """Shows a study in the browser while it runs. Its page exports what is finished, and adds concepts."""
    set_environment()
    from flows.watching.server import serve

    serve(port, browser)


app.add_typer(concept, name="concept")
app.add_typer(profile, name="profile")


def _module(command: str, module: str, words: list[str]) -> None:
    """Runs `python -m MODULE WORDS` in this process, with `palimpsest COMMAND` as the program's name."""
    if command in ONLINE:
        os.environ["HF_HUB_OFFLINE"] = "0"
    set_environment()
    sys.argv = [f"{NAME} {command}", *words]
    runpy.run_module(module, run_name="__main__", alter_sys=False)


def _add(command: str, module: str, short: str) -> None:
    if importlib.util.find_spec(module) is None:
        return

    def forward(context: typer.Context) -> None:
        _module(command, module, context.args)

    app.command(
        command,
        cls=type("Command", (ModuleCommand,), {"module": module}),
        help=short,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(forward)


for _command, (_source, _short) in MODULES.items():
    _add(_command, _source, _short)


def _run_project_code() -> None:
    """In a trusted project folder, replaces this process by the project's own copy of the code."""
    if own_code(sys.argv[1:], Path(__file__)):
        os.execv(sys.executable, [sys.executable, "-m", "flows.cli", *sys.argv[1:]])


def _work() -> int:
    try:
        code = int(app(prog_name=NAME, standalone_mode=False) or 0)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        raise ConfigFault(_message(error)) from None
    if code == INTERRUPTED:  # so typer answers Ctrl-C, in silence
        raise KeyboardInterrupt
    return code


def _message(error: typer.TyperException) -> str:
    """Typer's message as one line, with the most similar option for one that does not exist."""
    context, option = getattr(error, "ctx", None), getattr(error, "option_name", None)
    program = context.command_path if context else NAME
    message = error.format_message().rstrip(".")
    if context and option and message.startswith("No such option"):
        known = [name for param in context.command.get_params(context) for name in param.opts if name.startswith("--")]
        message = f"unknown option {option}. {nearest(option, known)}".rstrip(".")
    return f"{message}{'' if message.endswith('?') else '.'} See {program} --help."


def _work_here() -> int:
    _run_project_code()
    return _work()


def main() -> None:
    work: Callable[[], int] = _work_here
    sys.exit(attempt(work, debug="--debug" in sys.argv))


if __name__ == "__main__":
    main()
