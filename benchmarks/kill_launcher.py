"""Runs commands of ``unicuco`` in forked children of one warm process, and kills them at a write or at a moment.

What is slow to import is imported once, so that a child's life is the command's own work. A child names every call by
which Python changes a file of the workspace before it makes it: files opened to be written, names made, moved,
exchanged and removed, what is brought to the disk, and rows of a journal before and after they are written. What
libraries write in their own languages (the bytes of safetensors, SQLite's pages) has no such call; moments fall into
that.
"""

import importlib
import os
import pkgutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import unicuco_plugin

__all__ = ["Child", "Ended", "start", "warm_up"]

_CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate",
    "sqlite3.connect", "shutil.rmtree", "shutil.copyfile", "shutil.move",
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_LOGS = ("stdout", "stderr", "calls")
_POLL = 0.002


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Its exit status; -9 where it was killed.
        seconds: From the fork on.
        calls: The calls by which it changed files, in order; a killed one died before the last of them or after it.
        errors: The lines on standard error that begin with ``error:``, ``Error:`` or ``Traceback``.
    """

    status: int
    seconds: float
    calls: tuple[str, ...]
    errors: tuple[str, ...]


@dataclass
class Child:
    """A command under way."""

    pid: int
    started: float
    logs: Path

    def wait(self, kill_after: float | None = None) -> Ended:
        """Wait for its end, or end it so many seconds after its start."""
        while True:
            pid, status = os.waitpid(self.pid, 0 if kill_after is None else os.WNOHANG)
            if pid:
                break
            if kill_after is not None and time.monotonic() - self.started >= kill_after:
                os.kill(self.pid, signal.SIGKILL)
                kill_after = None
            else:
                time.sleep(_POLL)
        seconds = time.monotonic() - self.started
        calls = (self.logs / "calls").read_text(encoding="utf8").splitlines()
        said = (self.logs / "stderr").read_text(encoding="utf8", errors="replace").splitlines()
        errors = tuple(line for line in said if line.startswith(("error:", "Error:", "Traceback")))
        return Ended(os.waitstatus_to_exitcode(status), round(seconds, 3), tuple(calls), errors)


def warm_up() -> None:
    """Import everything that a command may import; nothing is computed, so that children can be forked."""
    for module in pkgutil.walk_packages(unicuco_plugin.__path__, "unicuco_plugin."):
        importlib.import_module(module.name)
    importlib.import_module("matplotlib.backends.backend_agg")


def start(
    job: Sequence[str] | Callable[[], None],
    workspace: Path,
    logs: Path,
    *,
    kill_at: int | None = None,
    exchange: bool = True,
) -> Child:
    """Start a command, or a function, in a forked child.

    Args:
        job: The command's arguments, or what to call instead.
        workspace: The folder whose changes count; the child's working folder is ``cwd`` in it, for its temporary files
            there is ``tmp``. Both are made.
        logs: A folder outside of it for the child's output and its calls; made.
        kill_at: The number of the call, from 0, before which the child kills itself.
        exchange: Whether the system can exchange two names.
    """
    for folder in (workspace / "cwd", workspace / "tmp", logs):
        folder.mkdir(parents=True, exist_ok=True)
    for name in _LOGS:  # a child may be killed before it opens them
        (logs / name).write_bytes(b"")
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    pid = os.fork()
    if pid:
        return Child(pid, started, logs)
    status = 70
    try:
        _enter(workspace, logs, kill_at)
        if not exchange:
            _forbid_exchange()
        status = _run(job)
    except BaseException as error:  # noqa: BLE001, RUF100 - the child must end here, whatever it is
        print(f"Error: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _enter(workspace: Path, logs: Path, kill_at: int | None) -> None:
    """Send output to files, work in the workspace, and watch what changes there."""
    stdout, stderr, trace = (os.open(logs / name, os.O_WRONLY) for name in _LOGS)
    for number, handle in ((1, stdout), (2, stderr)):
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(workspace / "cwd")
    os.environ["TMPDIR"] = str(workspace / "tmp")
    tempfile.tempdir = None
    _watch(str(workspace), trace, kill_at)


def _run(job: Sequence[str] | Callable[[], None]) -> int:
    if callable(job):
        job()
        return 0
    from unicuco_plugin.cli.main import main  # noqa: PLC0415 - after the audit hook, as everything of the command

    try:
        main(list(job))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _watch(area: str, trace: int, kill_at: int | None) -> None:
    count = 0

    def note(call: str, path: str) -> None:
        nonlocal count
        os.write(trace, f"{call} {path.removeprefix(area).lstrip('/')}".replace("\n", " ").encode() + b"\n")
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "ctypes.dlsym":
            if args[1] == "renameat2":
                note("exchange", "")
            return
        if event == "open":
            if not isinstance(args[2], int) or not args[2] & _WRITING:
                return
        elif event not in _CHANGES:
            return
        if isinstance(args[0], str | bytes | os.PathLike):
            path = os.fsdecode(args[0])
            if not path.startswith(os.sep) or path.startswith(area):  # relative ones are of a folder that is removed
                note(event, path)

    sys.addaudithook(hook)
    _announce(os, "fsync", lambda *_: note("os.fsync", ""))
    from unicuco_plugin.journal.journal import Journal  # noqa: PLC0415 - it is imported by then

    for method in ("record", "write_note"):
        _announce(Journal, method, lambda *_, name=method: note(f"journal.{name}", ""), after=True)


def _announce(owner: Any, name: str, note: Callable[..., None], *, after: bool = False) -> None:
    """Have a function say so before it is called, and after."""
    function = getattr(owner, name)

    def announced(*args: Any, **options: Any) -> Any:
        note()
        result = function(*args, **options)
        if after:
            note()
        return result

    setattr(owner, name, announced)


def _forbid_exchange() -> None:
    """Have the file system know no exchange: renaming is what is left."""
    from unicuco_plugin.models import staging  # noqa: PLC0415 - as above

    vars(staging)["exchange"] = lambda *_: False
