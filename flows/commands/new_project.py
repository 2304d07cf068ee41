"""Creates a project: a folder for a study with its own copy of the code, so that its results stay reproducible.

A linked project shares the code with the repository instead: `make demo` runs studies there, and a study that changes
params.yaml and dvc.lock leaves the repository as it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from flows.engine.journal import REPOSITORY
from flows.trust import trust
from stages.files.untrusted import copy_folder
from stages.files.yaml import PARAMS
from stages.runtime.faults import ConfigFault, MachineFault, for_all, nearest, printable
from stages.runtime.process import cause_of
from stages.tools import edit_params, profiles
from stages.tools.edit_params import LAST_POSITION

CODE = (
    *("flows", "stages", "data/__init__.py", "data/world", "data/profiles", "data/paper.csv", "data/README.md"),
    *("data/answers/README.md", "data/models.yaml", "data/performance"),
    *("dvc.yaml", "prefect.yaml", "Makefile", "pyproject.toml", "requirements.lock", "LICENSE"),
    *(".gitignore", ".dvcignore"),
)
OWN_FILES = ("data/answers/README.md", ".gitignore", ".dvcignore")  # git does not follow links to the last two
WEIGHTS = Path("data", "models")  # downloaded once for all linked projects
PHOTOS = Path("data", "photos")
OWN, DOMAIN = "own", "objects"
DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n    autostage = false\n"
ABOUT = """# {name}

A study with Palimpsest, created from the profile `{profile}`. `params.yaml` holds all its parameters, `data/photos` its
photos. {code}

```
palimpsest plan      # what would run, why, and for how long
palimpsest run       # runs what is not up to date
palimpsest report    # the result
```
"""
COPIED = "`stages` and `flows` are its own copy of the code, so that its results stay reproducible."
LINKED = "`stages` and `flows` are links to the code of the repository."
ABOUT_PHOTOS = "Put one folder of photos per concept here, for instance my_dog with five photos of one dog.\n"


def make(folder: Path, profile: str, photos: Path | None, link: bool = False) -> list[str]:
    """Writes the project.

    Args:
        folder: must be empty or not exist.
        profile: name of a profile.
        photos: a folder with one folder of photos per concept.
        link: link to the code and weights of this repository instead of copying the code.

    Returns:
        The names of the concepts in `photos`.

    Raises:
        ConfigFault: the folder is not empty, there is no such profile, or the photos are not in one folder per concept.
        InputFault: some photos cannot be used; those of all concepts are listed.
        MachineFault: git or DVC is missing or fails.
    """
    known = sorted(profiles.files(REPOSITORY))
    if profile not in known:
        raise ConfigFault(f"there is no profile '{profile}'. {nearest(profile, known)}")
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigFault(f"{folder}: exists and is not empty. Choose another name.")
    names = _concepts(photos) if photos else []
    text = _params(profile, names)
    if photos:
        _check(photos, names, text)
    place = folder.absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as draft:
            _write(Path(draft), place.name, profile, text, photos, names, link)
            place.mkdir(exist_ok=True)
            for path in sorted(Path(draft).iterdir()):
                path.rename(place / path.name)
    except shutil.Error as error:  # one entry per file that could not be copied
        source, _, reason = error.args[0][0]
        raise MachineFault(f"{source}: cannot be copied: {reason}.") from None
    except OSError as error:
        raise MachineFault(f"{error.filename or folder}: cannot be written: {error.strerror}.") from None
    with contextlib.suppress(MachineFault):  # without a writable list of trusted projects, `palimpsest trust` says why
        trust(folder)
    return names


def _write(draft: Path, name: str, profile: str, text: str, photos: Path | None, names: list[str], link: bool) -> None:
    """Writes the whole project into an empty folder."""
    _copy(draft, link)
    (draft / PHOTOS).mkdir(parents=True)
    if photos:
        for concept in names:
            copy_folder(photos / concept, draft / PHOTOS / concept)
    (draft / PARAMS).write_text(text, "utf-8")
    (draft / PHOTOS / "README.txt").write_text(ABOUT_PHOTOS, "utf-8")
    about = ABOUT.format(name=name, profile=profile, code=LINKED if link else COPIED)
    (draft / "README.md").write_text(about, "utf-8")
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        _call(draft, words)
    (draft / ".dvc/config").write_text(DVC_CONFIG, "utf-8")
    shutil.copytree(REPOSITORY / ".dvc/plots", draft / ".dvc/plots")
    _commit(draft, profile)


def _commit(draft: Path, profile: str) -> None:
    """Makes the first commit, without which `dvc exp` does not work; the user decides about the photos."""
    _call(draft, ["git", "add", ".", f":(exclude,glob){PHOTOS}/*/**"])
    # No hooks and no signature: they may ask for something.
    git = ["git", "-c", "core.hooksPath=/dev/null", "-c", "commit.gpgsign=false"]
    ask = [*git, "-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT"]
    if subprocess.run(ask, cwd=draft, capture_output=True).returncode:
        git += ["-c", "user.name=Palimpsest", "-c", "user.email=palimpsest@localhost"]
    _call(draft, [*git, "commit", "-q", "-m", f"A study from the profile {profile}"])


def _copy(folder: Path, link: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if link:
        (REPOSITORY / WEIGHTS).mkdir(exist_ok=True)
    for name in (*CODE, *([str(WEIGHTS)] if link else [])):
        source = REPOSITORY / name
        if link and name not in OWN_FILES:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).symlink_to(os.path.relpath(source, (folder / name).parent.resolve()))
        elif source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.tmp"))
        elif source.exists():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy2(source, folder / name)


def _params(profile: str, names: list[str]) -> str:
    """The text of params.yaml from the profile; with photos, their concepts are learned in the order of their names."""
    with contextlib.chdir(REPOSITORY):
        text = profiles.text(profile)
    return edit_params.with_photos(text, names, DOMAIN, PHOTOS) if names else text


def _check(photos: Path, names: list[str], text: str) -> None:
    """Checks the photos where they are, before anything is copied; prints what is noted on them."""
    from ruamel.yaml import YAML

    from flows.engine.photo_check import check_new, print_notes
    from stages.core.params import Prepare
    from stages.datasets.folder import Folder

    limits = Prepare(**YAML(typ="safe").load(text)["prepare"])
    dataset = Folder(root=str(photos))
    for _, notes in for_all(lambda name: check_new(photos / name, name, dataset, limits), names):
        print_notes(notes)


def _concepts(photos: Path) -> list[str]:
    """The names of the subfolders, which become the names of concepts."""
    if not photos.is_dir():
        raise ConfigFault(f"{photos}: is not a folder. Give one with a folder of photos per concept.")
    names = sorted(path.name for path in photos.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ConfigFault(f"{photos}: contains no folders. Put the photos of each concept into a folder of their own.")
    invalid = [name for name in names if not edit_params.is_name(name)]
    if invalid:
        folders = printable(", ".join(str(photos / name) for name in invalid))
        raise ConfigFault(f"{folders}: rename {'it' if len(invalid) == 1 else 'them'}. Use {edit_params.NAMES}.")
    if len(names) > LAST_POSITION:
        raise ConfigFault(f"{photos}: contains {len(names)} folders, but a study has at most {LAST_POSITION} concepts.")
    return names


def _call(folder: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", *words] if words[0] == "dvc" else words
    try:
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError as error:
        raise MachineFault(f"{words[0]}: {error.strerror}. Install it.") from None
    if process.returncode:
        raise MachineFault(f"{' '.join(words)}: {cause_of(process.stderr or process.stdout)}")
