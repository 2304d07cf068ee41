"""The pages in docs/: every command is run as written, on a small study, and every link has a target.

Blocks of `console` are run unless they begin with "# not run by the tests: ...". A block of another language whose
first line names a file is written to that file.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from tests.support.workspace import ONE_METRIC, PROJECT, SMALL, environment, tasks, with_dvc, workspace

pytestmark = pytest.mark.takes(200)

PAGES = sorted((PROJECT / "docs").glob("*.md"))
NOT_RUN = "# not run by the tests: "
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
MARK = "%%%"
PHOTOS = {"things/mug": 2, "toy": 2}  # under ~/Pictures


def script(page: str) -> str:
    """A page as a shell script that prints each command before it runs."""
    lines = ["set -e", f'palimpsest() {{ "{sys.executable}" -m flows.cli "$@"; }}']
    for language, text in BLOCK.findall(page):
        first = text.splitlines()[0]
        if language == "console" and not first.startswith(NOT_RUN):
            commands = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
            assert commands, f"a block without a command: {first}"
            for command in commands:
                lines += [f"cat <<'{MARK}'", f"{MARK} {command}", MARK, command]
        elif file := re.fullmatch(r"# (\S+/\S+\.\w+)", first):
            lines += [f"cat > {file[1]} <<'{MARK}'", text.rstrip(), MARK]
    return "\n".join(lines)


def shrink(profile: Path, sections: dict[str, Any]) -> None:
    """Changes sections of a profile; the list of strategies stays on one line, as in the real file."""
    yaml = YAML()
    tree = yaml.load(profile)
    for section, value in sections.items():
        if isinstance(value, dict) and section != "sequences":
            tree[section].update(value)
        else:
            tree[section] = value
    tree["strategies"] = CommentedSeq(tree["strategies"])
    tree["strategies"].fa.set_flow_style()
    yaml.dump(tree, profile)


def small(folder: Path) -> Path:
    """A workspace in which the profiles that the pages use are small: all derive from one, and `own` trains longer."""
    profiles = workspace(folder) / "data/profiles"
    sections = SMALL | tasks(1) | {"score": ONE_METRIC}
    shrink(profiles / "toy-objects.yaml", {name: value for name, value in sections.items() if name != "study"})
    shrink(profiles / "own.yaml", {"strategies": SMALL["strategies"], "train": SMALL["train"]})
    shutil.copy(profiles / "toy-objects.yaml", folder / "params.yaml")
    shutil.copytree(PROJECT / ".dvc/plots", with_dvc(folder) / ".dvc/plots")
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "LICENSE"):
        shutil.copy(PROJECT / name, folder / name)
    return folder


def home(folder: Path) -> Path:
    """A home folder with a few pictures."""
    from PIL import Image

    for number, (name, count) in enumerate(PHOTOS.items(), 1):
        (folder / "Pictures" / name).mkdir(parents=True)
        for i in range(count):
            picture = Image.effect_noise((64, 64), 40 * number).rotate(30 * i).convert("RGB")
            picture.save(folder / "Pictures" / name / f"{i}.jpg")
    return folder


WITH_COMMANDS = [page for page in PAGES if MARK in script(page.read_text("utf-8"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_every_command_of_a_page_succeeds(page, tmp_path):
    author = {f"GIT_{role}_{what}": "me@here" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    result = subprocess.run(
        ["bash", "-c", script(page.read_text("utf-8"))],
        cwd=small(tmp_path / "work"),
        env=environment()
        | author
        | {"HOME": str(home(tmp_path / "home")), "PREFECT_API_URL": "http://127.0.0.1:9/api"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    last = result.stdout.rpartition(MARK)[2]
    assert result.returncode == 0, f"{page.name}: {last}"


@pytest.mark.parametrize(
    "page", [*PAGES, *(PROJECT / name for name in ("README.md", "stages/README.md", "data/README.md"))], ids=str
)
def test_every_link_has_a_target(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


def test_every_test_that_a_page_names_exists():
    file, names = "", []
    for page in PAGES:
        for path, name in re.findall(r"`((?:\w+/)*test_\w+\.py)?::(test_\w+)`", page.read_text("utf-8")):
            file = path or file
            assert re.search(rf"^def {name}\(", (PROJECT / "tests" / file).read_text("utf-8"), re.M), (file, name)
            names.append(name)
    assert len(names) > 30
