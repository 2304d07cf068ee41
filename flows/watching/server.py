"""Serves the live page on this computer: loopback only, with a token in the address. It writes only on request."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from flows.watching.adding import Adding, clear, refusal
from flows.watching.exports import Exports
from flows.watching.guard import HEADERS, HOST, Guard
from flows.watching.page import LivePage
from stages.core.params import load
from stages.files.artifact import digest
from stages.runtime.faults import Fault, MachineFault
from stages.tools import edit_params

EVERY_SECONDS, HEARTBEAT = 1.0, 15.0


class Feed:
    """The parts that all open pages show, read from the disk once for all of them."""

    def __init__(self, page: LivePage) -> None:
        self.page, self.lock, self.read, self.error = page, asyncio.Lock(), -1.0, ""
        self.parts: dict[str, str] = {}

    async def now(self) -> dict[str, str]:
        """All parts, at most EVERY_SECONDS old. A study that cannot be read leaves them as they were."""
        async with self.lock:
            clock = asyncio.get_running_loop().time()
            if clock - self.read >= EVERY_SECONDS:
                try:
                    self.parts, self.error = await run_in_threadpool(self.page.parts), ""
                except (Fault, OSError, ValueError) as fault:  # params.yaml is being edited, or a file replaced
                    self.error = str(fault)
                self.read = asyncio.get_running_loop().time()
        return self.parts


def application(page: LivePage, adding: Adding, token: str, port: int) -> Starlette:
    """The server's addresses: the page, its events, and what can be asked for on it."""
    feed, guard = Feed(page), Guard(token, port)

    async def index(_: Request) -> Response:
        async with feed.lock:
            return HTMLResponse(await run_in_threadpool(page.whole, token, refusal(page.params)), headers=HEADERS)

    async def events(request: Request) -> Response:
        stream = _events(feed, request)
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)

    reading = [Route("/", guard.guarded(index)), Route("/events", guard.guarded(events))]
    return Starlette(routes=[*reading, *Exports(page).routes(guard), *adding.routes(guard)])


async def _events(feed: Feed, request: Request) -> AsyncIterator[str]:
    """Server-sent events: parts that have changed, an error, and the outline, on which the page reloads itself."""
    sent: dict[str, str] = {}
    silent = 0.0
    while not await request.is_disconnected():
        parts = await feed.now()
        news = [_event("outline", feed.page.outline)] if sent.get("outline") != feed.page.outline else []
        news += [_event("fault", json.dumps(feed.error))] if sent.get("fault", "") != feed.error else []
        sent["outline"], sent["fault"] = feed.page.outline, feed.error
        for name, html in parts.items():
            if sent.get(f"part {name}") != (key := digest([html])):
                sent[f"part {name}"] = key
                news.append(_event("part", json.dumps({"id": name, "html": html})))
        silent = 0.0 if news else silent + EVERY_SECONDS
        if silent >= HEARTBEAT:
            news, silent = [": still here\n\n"], 0.0
        for event in news:
            yield event
        await asyncio.sleep(EVERY_SECONDS)


def _event(kind: str, data: str) -> str:
    return f"event: {kind}\ndata: {data}\n\n"


def serve(port: int, browser: bool) -> None:
    """Serves the live page of the study in this folder until Ctrl-C.

    Args:
        port: to listen on; 0: any free one.
        browser: open the page.

    Raises:
        ConfigFault: params.yaml is missing or invalid.
        MachineFault: the port is in use.
    """
    edit_params.tree()  # outside a project nothing is written
    clear()
    page = LivePage(load)
    with closing(Adding(page)) as adding, socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()  # from here on a browser waits, until the server is up
        except OSError as error:
            raise MachineFault(f"port {port}: {error.strerror}. Omit --port to use any free one.") from None
        token, port = secrets.token_urlsafe(24), listener.getsockname()[1]
        address = f"http://{HOST}:{port}/?token={token}"
        print(f"{page.params.study}, live: {address}\nOnly this computer can open it. Ctrl-C ends it.", flush=True)
        if browser and sys.stdout.isatty():
            webbrowser.open(address)
        config: dict[str, Any] = {"log_level": "error", "access_log": False, "timeout_graceful_shutdown": 1}
        with suppress(KeyboardInterrupt):  # the way to end it
            uvicorn.Server(uvicorn.Config(application(page, adding, token, port), **config)).run(sockets=[listener])
