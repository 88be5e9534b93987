"""Progress of a long run as a bar on standard error."""

import sys
import time
from io import StringIO
from typing import Any, Self

from tqdm import tqdm

from unicuco_plugin.cli.output import say
from unicuco_plugin.escaping import escape_controls, escape_line
from unicuco_plugin.progress import Progress

__all__ = ["ProgressBars"]

# Seconds between two pictures of the bar: what an eye follows, and what a log file bears.
_TERMINAL, _LOG = 0.2, 30.0


class ProgressBars:
    """Shows one bar for the whole run, with its rate and the time that is left; call it with each event.

    Where standard error is no terminal, the bar is a line now and then.

    Args:
        unit: What is counted, in the plural.
    """

    def __init__(self, unit: str = "evaluations") -> None:
        self._unit = unit
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None
        self._stage = ""
        self._logged = 0.0

    def __call__(self, event: Progress) -> None:
        """Move the bar to where the event says; what it has to tell goes on a line above."""
        if event.total <= 1:  # nothing to count yet: a line says it all
            if event.message:
                self._note(event.message)
            elif event.stage != self._stage:
                self._stage = event.stage
                say(f"{escape_line(event.stage)} …", err=True)
            return
        if self._bar is None:
            self._bar = self._open(event)
        self._stage = event.stage
        self._bar.total = event.total
        self._bar.set_description_str(escape_line(event.stage), refresh=False)
        if event.tokens:
            self._bar.set_postfix_str(f"{event.tokens:,} tokens", refresh=False)
        self._bar.update(event.done - self._bar.n)
        if event.message:
            self._note(event.message)
        if self._terminal:  # a stage without steps of its own, such as fitting, would not show itself
            self._bar.refresh()
        elif event.message or time.monotonic() - self._logged > _LOG:
            self._log()

    def finish(self) -> None:
        """Fill the bar: a run may find that it needs fewer evaluations than it may make."""
        if self._bar is not None:
            self._bar.total = self._bar.n

    def close(self) -> None:
        """Leave the bar on the screen as it is."""
        if self._bar is not None:
            if not self._terminal:
                self._log()
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Self:
        """Nothing is shown before the first event."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar however the run ends."""
        self.close()

    def _note(self, message: str) -> None:
        if self._bar is None:
            say(escape_controls(message), err=True)
        else:
            self._bar.write(escape_controls(message), file=sys.stderr)

    def _open(self, event: Progress) -> "tqdm[Any]":
        return tqdm(
            total=event.total,
            unit=f" {self._unit}",
            file=sys.stderr if self._terminal else StringIO(),
            mininterval=_TERMINAL,
            initial=event.done,  # steps of an earlier run do not count for the rate
            disable=False,
        )

    def _log(self) -> None:
        self._logged = time.monotonic()
        say(str(self._bar), err=True)
