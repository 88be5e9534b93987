"""Connections that may not keep a worker waiting: for the rest of a request, or for a client that does not read."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from unicuco_plugin.web.bounds import SECONDS

__all__ = ["HEAD_SECONDS", "TimedProtocol"]

HEAD_SECONDS = 30  # from the connection, or the last answer, until a request's head is there


class TimedProtocol(H11Protocol):
    """Uvicorn's own protocol, with a last moment for every connection.

    Uvicorn waits for ever once a byte has come after an answer, be it of the next head or of a body that nobody reads,
    and whatever closes a connection waits until the client has read what was sent.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing."""
        self._rest()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Wait for the answer once a head is there."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._wait(SECONDS + HEAD_SECONDS)

    def on_response_complete(self) -> None:
        """Wait for the next head, unless it is there, and until the answer was read."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self._wait(HEAD_SECONDS)

    def _wait(self, seconds: float) -> None:
        self._rest()
        self._late = self.loop.call_later(seconds, self.transport.abort)

    def _rest(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
