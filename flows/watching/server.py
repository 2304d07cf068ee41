"""Serves the live page on this computer: loopback only, with a token in the address, and it writes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from flows.watching.page import SCRIPT, LivePage
from stages.core.params import load
from stages.files.artifact import digest
from stages.reporting.page.render import BEGIN, policy
from stages.runtime.faults import Fault, MachineFault

HOST, EVERY_SECONDS, HEARTBEAT = "127.0.0.1", 1.0, 15.0
HEADERS = {
    # As the report's, with requests to this server for its events.
    "Content-Security-Policy": f"{policy(BEGIN, SCRIPT)}; connect-src 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Refuses requests without the token, from another origin, or by another name of this computer.

    The last is for pages that make their own domain point to 127.0.0.1.
    """

    def __init__(self, token: str, port: int) -> None:
        self.token, self.hosts = token, {f"{HOST}:{port}", f"localhost:{port}"}

    def refuses(self, request: Request) -> bool:
        """Whether a request is not from the page that `serve` printed the address of."""
        origin = request.headers.get("origin")
        return (
            request.headers.get("host") not in self.hosts
            or (origin is not None and origin.removeprefix("http://") not in self.hosts)
            or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
            or not hmac.compare_digest(request.query_params.get("token", "").encode(), self.token.encode())
        )


def _refusal() -> Response:
    return PlainTextResponse("Open the address that palimpsest watch printed.\n", 403, headers=HEADERS)


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
                    self.parts = await run_in_threadpool(self.page.parts)
                except (Fault, OSError, ValueError) as fault:  # params.yaml is being edited, or a file replaced
                    self.error = str(fault)
                self.read = asyncio.get_running_loop().time()
        return self.parts


def application(page: LivePage, token: str, port: int) -> Starlette:
    """The server's two addresses: the page and its events."""
    feed, guard = Feed(page), Guard(token, port)

    async def index(request: Request) -> Response:
        if guard.refuses(request):
            return _refusal()
        async with feed.lock:
            return HTMLResponse(await run_in_threadpool(page.whole, token), headers=HEADERS)

    async def events(request: Request) -> Response:
        if guard.refuses(request):
            return _refusal()
        stream = _events(feed, request)
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)

    return Starlette(routes=[Route("/", index), Route("/events", events)])


async def _events(feed: Feed, request: Request) -> AsyncIterator[str]:
    """Server-sent events: each part when it has changed, and the outline, on which the page reloads itself."""
    sent: dict[str, str] = {}
    silent = 0.0
    while not await request.is_disconnected():
        parts = await feed.now()
        news = [_event("outline", feed.page.outline)] if sent.get("outline") != feed.page.outline else []
        sent["outline"] = feed.page.outline
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
    page = LivePage(load)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise MachineFault(f"port {port}: {error.strerror}. Omit --port to use any free one.") from None
        token, port = secrets.token_urlsafe(24), listener.getsockname()[1]
        address = f"http://{HOST}:{port}/?token={token}"
        print(f"{page.params.study}, live: {address}\nOnly this computer can open it. Ctrl-C ends it.", flush=True)
        if browser and sys.stdout.isatty():
            webbrowser.open(address)
        config: dict[str, Any] = {"log_level": "error", "access_log": False, "timeout_graceful_shutdown": 1}
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            uvicorn.Server(uvicorn.Config(application(page, token, port), **config)).run(sockets=[listener])
