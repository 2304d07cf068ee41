"""Export on the live page: runs `palimpsest export` for a finished task, and offers the file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from flows.watching.command import palimpsest
from flows.watching.guard import HEADERS, Guard, asked
from flows.watching.page import LivePage
from stages.runtime.faults import InputFault
from stages.runtime.strict import Strict
from stages.tools.export import EXPORTS


class Wanted(Strict):
    """What the page asks for."""

    run: str
    task: str


class Exports:
    """The files that this page has exported. They stay in the folder of the command."""

    def __init__(self, page: LivePage) -> None:
        self.page, self.files, self.lock = page, dict[str, Path](), asyncio.Lock()

    def routes(self, guard: Guard) -> list[Route]:
        """The addresses of an export and of its file."""
        return [
            Route("/export", guard.guarded(self.export), methods=["POST"]),
            Route("/exported", guard.guarded(self.file)),
        ]

    async def export(self, request: Request) -> Response:
        """Exports a run after a task; answers with the command's line and the file's name."""
        wanted = await asked(request, Wanted)
        run, task = wanted.run, wanted.task
        if task not in (name for name, _ in self.page.finished.get(run, [])):
            raise InputFault(f"{run}, task {task}: is not finished in this study. Reload the page.")
        # A file of its own, so that its model card and contact sheet have its name too.
        path = EXPORTS / f"{self.page.params.study}-{run.replace('/', '-')}-{task}.safetensors"
        async with self.lock:  # one model in memory at a time
            line = await palimpsest("export", run, "--task", task, "--to", str(path))
        self.files[path.name] = path
        return JSONResponse({"line": line, "file": path.name}, headers=HEADERS)

    async def file(self, request: Request) -> Response:
        """An exported file, as a download."""
        path = self.files.get(request.query_params.get("name", ""))
        if path is None or not path.is_file():
            raise InputFault("this page has exported no such file, or it was deleted. Export it again.")
        return FileResponse(path, headers=HEADERS, filename=path.name, media_type="application/octet-stream")
