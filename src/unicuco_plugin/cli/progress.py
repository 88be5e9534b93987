"""Progress of a training run as bars on standard error."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

if TYPE_CHECKING:  # slow to import
    from unicuco_plugin.training import Progress

__all__ = ["ProgressBars"]

# Seconds between two pictures of a bar: what an eye follows, and what a log file bears.
_TERMINAL, _LOG = 0.2, 30.0


class ProgressBars:
    """Shows one bar a stage, with its rate and the time that is left; call it with each event."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._stage = ""

    def __call__(self, event: "Progress") -> None:
        """Move the bar of the event's stage to where the event says."""
        if self._bar is None or event.stage != self._stage:
            self.close()
            self._stage = event.stage
            self._bar = _open(event)
        self._bar.total = event.total
        notes = [f"{event.tokens:,} tokens"] if event.tokens else []
        self._bar.set_postfix_str("; ".join([*notes, *([event.message] if event.message else [])]), refresh=False)
        self._bar.update(event.done - self._bar.n)

    def close(self) -> None:
        """Leave the last bar on the screen as it is."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Self:
        """Nothing is shown before the first event."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar however the run ends."""
        self.close()


def _open(event: "Progress") -> "tqdm[Any]":
    interval = _TERMINAL if sys.stderr.isatty() else _LOG
    # initial: steps of an earlier run do not count for the rate.
    return tqdm(total=event.total, desc=event.stage, file=sys.stderr, mininterval=interval, initial=event.done)
