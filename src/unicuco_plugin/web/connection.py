"""Connections that may not keep a worker waiting for the rest of a request's head."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEAD_SECONDS", "TimedProtocol"]

HEAD_SECONDS = 30  # from the connection, or the last answer, until a request's head is there


class TimedProtocol(H11Protocol):
    """Uvicorn's own protocol, which waits for ever once a request's first byte has come."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing."""
        self._rest()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Stop waiting once a head is there."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._rest()

    def on_response_complete(self) -> None:
        """Wait for the next one."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:
            self._wait()

    def _wait(self) -> None:
        self._rest()
        self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _rest(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
