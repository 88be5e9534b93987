"""Errors at the edge: one line on standard error and an exit code; the traceback only with ``--debug``."""

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from unicuco_plugin.cli.output import say
from unicuco_plugin.errors import LONGEST, UnicucoError, clip
from unicuco_plugin.escaping import escape_controls

__all__ = ["DEBUG", "INTERRUPTED", "QUIET", "Failure", "one_line", "reporting"]

# Where --debug is noted: click shares ``meta`` between a command and its group.
DEBUG = "unicuco.debug"
# What a shell reports for a process that SIGINT ended: 128 + 2.
INTERRUPTED = 130
# Switches off every progress bar that does not insist.
QUIET = "TQDM_DISABLE"


class Failure(click.ClickException):
    """Ends the command with exit code 1 and its message on standard error."""

    def show(self, file: object = None) -> None:
        """Print the message as one line of at most 300 characters; its end, what to do, stays."""
        say(clip(escape_controls(f"error: {one_line(self.message)}"), LONGEST, middle=True), err=True)


def one_line(text: str) -> str:
    """Join the lines of a message that another library wrote."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


@contextmanager
def reporting(ctx: click.Context) -> Iterator[None]:
    """Turn what a command raises into its exit code.

    Raises:
        Failure: For our own errors (their message), and for all others (their type and how to see more).
        click.exceptions.Exit: With code 130 after Ctrl-C.
        click.UsageError: As it was, with code 2.
    """
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt:
        say("interrupted", err=True)
        ctx.exit(INTERRUPTED)
    except UnicucoError as error:
        _trace(ctx)
        raise Failure(str(error)) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # the reader of our output has gone (``| head``); click leaves quietly
        _trace(ctx)
        hint = "" if ctx.meta.get(DEBUG) else " (run with --debug for the traceback)"
        raise Failure(f"{type(error).__name__}: {error}{hint}") from error


def _trace(ctx: click.Context) -> None:
    if ctx.meta.get(DEBUG):
        say(traceback.format_exc().rstrip(), err=True)
