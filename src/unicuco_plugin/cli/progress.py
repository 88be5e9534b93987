"""Progress of a training run as a bar on standard error."""

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
    """Shows one bar for the whole run, with its rate and the time that is left; call it with each event."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._stage = ""

    def __call__(self, event: "Progress") -> None:
        """Move the bar to where the event says; what it has to tell goes on a line above."""
        if event.total <= 1:  # nothing to count yet: a line says it all
            if event.stage != self._stage:
                self._stage = event.stage
                print(f"{event.stage} …", file=sys.stderr)
            return
        if self._bar is None:
            self._bar = _open(event)
        if event.message:
            self._bar.write(event.message, file=sys.stderr)
        self._stage = event.stage
        self._bar.total = event.total
        self._bar.set_description_str(event.stage, refresh=False)
        self._bar.set_postfix_str(f"{event.tokens:,} tokens", refresh=False)
        self._bar.update(event.done - self._bar.n)
        if sys.stderr.isatty():  # a stage without steps of its own, such as fitting, would not show itself
            self._bar.refresh()

    def finish(self) -> None:
        """Fill the bar: a run may find that it needs fewer evaluations than it may make."""
        if self._bar is not None:
            self._bar.total = self._bar.n

    def close(self) -> None:
        """Leave the bar on the screen as it is."""
        if self._bar is not None:
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
    return tqdm(
        total=event.total,
        unit=" evaluations",
        file=sys.stderr,
        mininterval=_TERMINAL if sys.stderr.isatty() else _LOG,
        initial=event.done,  # steps of an earlier run do not count for the rate
        disable=False,
    )
