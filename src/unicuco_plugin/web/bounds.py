"""What holds for every request before anything reads it: its size, its time, the token, and headers for browsers."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from unicuco_plugin.web.problems import describe, problem_response
from unicuco_plugin.web.schemas import Problem

__all__ = ["MOST_BYTES", "SECONDS", "Bounds"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 2**18  # of a body: 256 requests have some twenty thousand
_MOST_PATH = 2_000  # characters, query and all
_BODY_SECONDS, SECONDS = 10.0, 60.0  # until a body is there; until an answer was sent
# Without the token: the page, which holds no profile and asks for it, and what says that the service lives.
_OPEN = ("/", "/healthz")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]


class Bounds:
    """Reads bodies itself, bounded, and passes them on whole.

    Args:
        app: What answers.
        token: What clients must send as bearer token, white space around it left out; None where they need none.
        heard: Called with the route, the status and the seconds of every request.
    """

    def __init__(self, app: App, token: str | None, heard: Callable[[str, int, float], None]) -> None:
        self._app, self._heard = app, heard
        self._token = None if token is None else token.strip().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        started = False

        async def sending(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        try:
            async with asyncio.timeout(SECONDS):
                body = await self._admit(scope, receive)
                if isinstance(body, Problem):
                    challenge = {"WWW-Authenticate": "Bearer"} if body.status == 401 else {}
                    # Nobody reads what else the client sends: it is not waited for.
                    await problem_response(body, {"Connection": "close", **challenge})(scope, receive, sending)
                else:
                    await self._app(scope, _replay(body, receive), sending)
        except TimeoutError:
            if started:  # a client that does not read; there is nothing left to tell it
                raise
            await problem_response(describe(503, "busy", f"must be done within {SECONDS:g} seconds; ask again later"))(
                scope, receive, sending
            )
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._heard(route, status, time.perf_counter() - began)

    async def _admit(self, scope: Scope, receive: Receive) -> bytes | Problem:
        """The whole body; or why the request goes no further."""
        headers = dict(scope["headers"])
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > _MOST_PATH:
            return describe(414, "path-too-long", f"path must have at most {_MOST_PATH} characters with its query")
        if self._token is not None and scope["path"] not in _OPEN:
            scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
            if not (hmac.compare_digest(sent.strip(), self._token) and scheme.lower() == b"bearer"):
                return describe(401, "no-token", "Authorization must be Bearer and the service's token")
        if scope["method"] in ("GET", "HEAD"):
            return b""
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _read(receive)
        except TimeoutError:
            return describe(408, "too-slow", f"body must arrive within {_BODY_SECONDS:g} seconds")
        if body is None:
            return describe(413, "body-too-large", f"body must have at most {MOST_BYTES} bytes; send fewer requests")
        return body


async def _read(receive: Receive) -> bytes | None:
    """A whole body; None of one that is too large, whatever it says of its length."""
    body, more = b"", True
    while more and len(body) <= MOST_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return body if len(body) <= MOST_BYTES else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read once more; then what comes after it."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
