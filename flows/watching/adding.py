"""The form of the live page that adds a concept: what `palimpsest concept add` does, with photos from the browser.

The page first lists the files that it will send, which is checked before any is read. Then it sends the photos as one
body to a temporary folder, which the command reads like any folder: with --plan for the preview, with --yes to add it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flows.engine import journal
from flows.engine.photo_check import own_photos
from flows.watching.command import palimpsest
from flows.watching.guard import HEADERS, Guard, asked
from flows.watching.page import LivePage
from flows.watching.upload import Wanted, check, receive
from stages.core.params import Params
from stages.datasets.shared.names import ABOUT
from stages.files.undo import LOCK
from stages.files.writing import new_folder
from stages.runtime.faults import ConfigFault, Fault, InputFault, MachineFault
from stages.runtime.process import lock
from stages.runtime.strict import Strict

PLACE = Path(".cache", "watch")  # a folder per server, whose lock it holds
LARGEST_LIST = 1 << 20  # bytes of the names and sizes of photos


class Chosen(Strict):
    """The draft that a request is about."""

    draft: str


@dataclass(frozen=True)
class Draft:
    """A concept that may be added."""

    key: str
    wanted: Wanted
    folder: Path  # of its photos; named like the concept, which is its class unless another one is given


class Adding:
    """The drafts of one server: one at a time."""

    def __init__(self, page: LivePage) -> None:
        self.page, self.lock = page, asyncio.Lock()
        self.draft: Draft | None = None
        self._folder: Path | None = None  # of this server, once there is one
        self._own = ExitStack()

    def routes(self, guard: Guard) -> list[Route]:
        """The addresses of the three steps."""
        steps = {"/draft": self.begin, "/photos": self.photos, "/add": self.add}
        return [Route(path, guard.guarded(answer), methods=["POST"]) for path, answer in steps.items()]

    async def begin(self, request: Request) -> Response:
        """Checks what will be sent; answers with the key of the draft, which replaces an earlier one."""
        wanted = await asked(request, Wanted, LARGEST_LIST)
        if reason := refusal(self.page.params):
            raise ConfigFault(reason)
        if holder := journal.holder(LOCK):
            raise MachineFault(f"a run is in progress (pid {holder.pid}). Add the concept when it has ended.")
        check(wanted, self.page.params.prepare)
        async with self.lock:
            self._forget()
            key = secrets.token_urlsafe(12)
            self.draft = Draft(key, wanted, self._place() / key / wanted.name)
        return JSONResponse({"draft": key}, headers=HEADERS)

    async def photos(self, request: Request) -> Response:
        """Receives the photos; answers with what the command would do."""
        async with self.lock:
            draft = self._chosen(request.query_params.get("draft", ""))
            try:
                with new_folder(draft.folder, durable=False) as folder:
                    await receive(request, draft.wanted.files, folder)
                    if draft.wanted.noun:
                        (folder / ABOUT).write_text(f"noun: {json.dumps(draft.wanted.noun)}\n", "utf-8")
            except ClientDisconnect:
                raise InputFault("the page was closed before all photos were sent. Send them again.") from None
            line = await self._command(draft, "--plan")
        return JSONResponse({"line": line}, headers=HEADERS)

    async def add(self, request: Request) -> Response:
        """Adds the concept, and computes nothing; answers with the command's last lines."""
        chosen = await asked(request, Chosen)
        async with self.lock:
            draft = self._chosen(chosen.draft)
            if not draft.folder.is_dir():
                raise InputFault("its photos have not been sent. Choose them again.")
            printed = await self._command(draft, "--yes", "--no-run")
            self._forget()
        return JSONResponse({"line": printed[printed.rindex("Added") :]}, headers=HEADERS)

    async def _command(self, draft: Draft, *options: str) -> str:
        """What `palimpsest concept add` prints, with the photos' names as the user knows them."""
        try:
            words = ("concept", "add", draft.wanted.name, "--photos", str(draft.folder), *options)
            return _as_chosen(await palimpsest(*words), draft)
        except Fault as fault:
            raise type(fault)(_as_chosen(str(fault), draft)) from None

    def _chosen(self, key: str) -> Draft:
        if self.draft is None or self.draft.key != key:
            raise InputFault("another page is adding a concept, or this one was already added. Choose photos again.")
        return self.draft

    def _forget(self) -> None:
        if self.draft:
            shutil.rmtree(self.draft.folder.parent, ignore_errors=True)
        self.draft = None

    def _place(self) -> Path:
        """The folder of this server."""
        if self._folder is None:
            clear()
            PLACE.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(dir=PLACE))
            self._own.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._own.enter_context(lock(self._folder / "lock"))
        return self._folder

    def close(self) -> None:
        """Deletes the folder of this server."""
        self._own.close()
        self._folder = None


def clear() -> None:
    """Deletes the folders of servers that were killed."""
    for folder in PLACE.glob("*"):
        with suppress(MachineFault), lock(folder / "lock"):  # which its server holds
            shutil.rmtree(folder, ignore_errors=True)


def refusal(params: Params) -> str:
    """Why no concept can be added on the page; empty if one can."""
    try:
        own_photos(params)
    except ConfigFault as fault:
        return str(fault)
    if len(params.domains) > 1:
        names = ", ".join(params.domains)
        return f"params.yaml: domains are {names}, each of which needs a concept: palimpsest concept add --help"
    return ""


def _as_chosen(text: str, draft: Draft) -> str:
    return text.replace(f"{draft.folder}/", "").replace(str(draft.folder), draft.wanted.name)
