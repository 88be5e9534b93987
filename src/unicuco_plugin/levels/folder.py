"""The folder that a build writes to: whether it may, what is there already, and whether there is room."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from unicuco_plugin.errors import LevelsError, listed
from unicuco_plugin.files.draft import is_draft, remove_drafts
from unicuco_plugin.files.lock import HeldError, take_lock
from unicuco_plugin.files.names import check_plain_name
from unicuco_plugin.levels.kinds import kind_of
from unicuco_plugin.levels.linear import check_contents
from unicuco_plugin.levels.record import RECORD, LevelsRecord, LinearEntry, read_record
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.output_folder import free_bytes
from unicuco_plugin.texts.selfcalibration import own_cache

__all__ = ["alone", "begin", "check_output", "check_room"]

_LOCK = ".lock"


def check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse an output that would be mixed up or lost.

    Raises:
        LevelsError: If it is a file, holds something else, or holds a database and neither flag is given; or if both
            are.
        CalibrationError: If the folder for windows that the model writes is a link.
    """
    if resume and overwrite:
        raise LevelsError("resume and overwrite exclude each other: one continues a build, the other discards it")
    if output.exists() and not output.is_dir():
        raise LevelsError(f"output must be a folder, got the file {output}")
    held = os.path.lexists(output / RECORD)
    # What is there of a build before its record: windows that the model wrote, and what a kill left.
    ours = {_LOCK, own_cache(output).name}
    strangers = [
        path.name
        for path in (sorted(output.iterdir()) if output.exists() and not held else ())
        if path.name not in ours and not is_draft(path.name, RECORD)
    ]
    if strangers:
        raise LevelsError(
            f"output {output} must be empty or hold a level database, got {listed(strangers)}"
            f" and no {RECORD}; choose another output"
        )
    if held and not (resume or overwrite):
        raise LevelsError(
            f"output {output} already holds {RECORD}; pass --resume to continue that build, --overwrite to replace "
            "it, or choose another output"
        )


def _forget(output: Path) -> None:
    """Remove a database's linears: the files that its record names, all of them plain names in its own folder.

    The record stays until the next one replaces it: after a kill the folder is that of a database still.
    """
    try:
        expected = read_record(output).expected
    except LevelsError as error:
        raise LevelsError(f"{error}; it will not be replaced: remove it, or choose another output") from error
    for name in expected:  # not only those that are done: a killed build wrote a file before it said so
        with contextlib.suppress(ValueError):
            (output / check_plain_name(f"{name}.safetensors")).unlink(missing_ok=True)


def begin(output: Path, wanted: LevelsRecord, *, resume: bool, tell: Callable[[str], None]) -> LevelsRecord:
    """Return the record to go on from: the stored one less the files that are damaged, or the empty one.

    Args:
        output: The folder, held by :func:`alone`.
        wanted: A record without linears, of the build that was asked for.
        resume: Whether to keep what is there; otherwise it is removed.
        tell: Called with each reason to solve a linear again.

    Raises:
        LevelsError: If the database there belongs to other arguments; the message names them with both values.
    """
    if not os.path.lexists(output / RECORD):
        return wanted
    if not resume:
        _forget(output)
        return wanted
    stored = read_record(output)
    differences = stored.differences(wanted)
    if differences:
        raise LevelsError(
            f"level database {output} belongs to other arguments: {'; '.join(differences)}; give the same arguments, "
            "--overwrite, or another output"
        )
    kept: dict[str, LinearEntry] = {}
    for name, error in check_contents(output, stored.linears):
        if error is None:
            kept[name] = stored.linears[name]
        else:
            tell(str(error))
    return stored.model_copy(update={"linears": kept})


def check_room(
    output: Path, left: Mapping[str, tuple[int, int]], settings: LevelSettings, dtype: str, *, overwrite: bool = False
) -> int:
    """Compare the disk's free bytes with what is still to be written.

    Args:
        output: The folder, which need not exist.
        left: Shapes of the linears to come.
        settings: Their levels.
        dtype: Of the weights.
        overwrite: Whether a database that is there now will make room first.

    Returns:
        Bytes to be written at most.

    Raises:
        LevelsError: If there is too little; the message has both numbers.
    """
    need = kind_of(settings).predict(left, dtype)
    free = free_bytes(output)
    if overwrite and (output / RECORD).exists():
        with contextlib.suppress(LevelsError):
            free += sum(entry.bytes for entry in read_record(output).linears.values())
    if need > free:
        raise LevelsError(
            f"level database {output} needs {need:,} bytes, the disk has {free:,} free; make room, "
            f"choose another output, or fewer {settings.kind}"
        )
    return need


@contextlib.contextmanager
def alone(output: Path) -> Iterator[None]:
    """Hold the folder's lock, and remove what killed builds left of files that they were writing.

    Raises:
        LevelsError: If another process builds there, or the lock cannot be made.
    """
    try:
        lock = take_lock(output / _LOCK)
    except HeldError as error:
        raise LevelsError(f"output {output} is in use: another process builds there") from error
    except OSError as error:
        raise LevelsError(f"output {output} cannot be written: {error}") from error
    with lock:
        remove_drafts(output)
        yield
