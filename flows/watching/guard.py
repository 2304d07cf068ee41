"""Whom the live page's server answers, with which headers, and how much it reads of a request."""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from flows.watching.connections import ANYONE, user_at
from flows.watching.page import SCRIPT
from stages.files.strict_json import parse_json
from stages.reporting.page.render import BEGIN, policy
from stages.runtime.exits import machine_fault
from stages.runtime.faults import Fault, InputFault, first_line
from stages.runtime.strict import Strict, explain

HOST = "127.0.0.1"
LARGEST = 1 << 16  # bytes of what a page asks for
HEADERS = {
    # As the report's, with requests to this server.
    "Content-Security-Policy": (
        f"{policy(BEGIN, SCRIPT)}; connect-src 'self'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Form = TypeVar("Form", bound=Strict)
Answer = Callable[[Request], Awaitable[Response]]


class Guard:
    """Refuses requests without the token, from another origin, by another name of this computer, or of another user.

    The third is for pages that make their own domain point to 127.0.0.1. The fourth is for users who see the token in
    the list of processes, where a browser that is opened has it.
    """

    def __init__(self, token: str, port: int) -> None:
        self.token, self.port, self.hosts = token, port, {f"{HOST}:{port}", f"localhost:{port}"}
        self.users = {os.getuid(), 0} if user_at((HOST, port), ANYONE) is not None else None

    def refuses(self, request: Request) -> bool:
        """Whether a request is not from the page that `serve` printed the address of."""
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        return (
            host not in self.hosts
            or (origin != f"http://{host}" if origin is not None else request.method == "POST")
            or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
            or not hmac.compare_digest(request.query_params.get("token", "").encode(), self.token.encode())
            or self._is_of_another_user(request)
        )

    def _is_of_another_user(self, request: Request) -> bool:
        """Whether somebody else's program, or none any more, is at the other end, where the system tells."""
        at = request.client
        return self.users is not None and (
            at is None or user_at((at.host, at.port), (HOST, self.port)) not in self.users
        )

    def guarded(self, answer: Answer) -> Answer:
        """Wraps a handler: only the page gets its answers, and a fault is answered by its line."""

        async def checked(request: Request) -> Response:
            if self.refuses(request):
                return PlainTextResponse(
                    "Open the address that palimpsest watch printed, as the user who started it.\n",
                    403,
                    headers=HEADERS,
                )
            try:
                return await answer(request)
            except Fault as fault:
                return JSONResponse({"error": str(fault)}, 400, HEADERS)
            except OSError as error:
                return JSONResponse({"error": str(machine_fault(error))}, 400, HEADERS)

        return checked


async def asked(request: Request, form: type[Form], largest: int = LARGEST) -> Form:
    """The content of a request, which is JSON of this form.

    Raises:
        InputFault: it is too long, not JSON, or has another form.
    """
    try:
        return form.model_validate(parse_json(await body(request, largest)))
    except ValidationError as error:
        raise InputFault(explain(error, form)) from None
    except ValueError as error:
        raise InputFault(f"the request is not JSON: {first_line(error)[:200]}.") from None


async def body(request: Request, largest: int) -> bytes:
    """What a request sends.

    Raises:
        InputFault: it is longer than allowed; the rest is not read.
    """
    stated = request.headers.get("content-length", "0")
    parts, length = [], int(stated) if stated.isascii() and stated.isdigit() else largest + 1
    if length <= largest:
        length = 0
        async for part in request.stream():
            parts.append(part)
            if (length := length + len(part)) > largest:
                break
    if length > largest:
        raise InputFault(f"the request has more than {largest} bytes.")
    return b"".join(parts)
