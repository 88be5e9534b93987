"""A folder that appears complete or not at all."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unicuco_plugin.errors import ExportError
from unicuco_plugin.files.draft import read_umask, remove_drafts
from unicuco_plugin.files.exchange import exchange
from unicuco_plugin.models.output_folder import check_output, check_room, owned_names
from unicuco_plugin.ownership import MARKER, list_files, read_marker, remove_owned, write_marker

__all__ = ["staged_folder"]

# What renaming a folder fails with where there is something that is not an empty folder.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_UNFINISHED = ".{}.unfinished-"
_OLD = ".{}.old-"


@contextmanager
def staged_folder(output: Path, *, overwrite: bool, need: int = 0) -> Iterator[Path]:
    """Give a temporary folder beside ``output`` that takes its name when the ``with`` ends well.

    After an error nothing is left of it, and an older checkpoint at ``output`` is untouched. What a killed process left
    of the same output is put right first. The folder gets a marker that lists its files, by which a later call knows
    what it may replace.

    Args:
        output: The folder to be.
        overwrite: Whether an older one there may be replaced.
        need: Bytes that will be written at least.

    Raises:
        ExportError: If ``output`` may not be written (see :func:`.output_folder.check_output`), or the disk refuses or
            is too small.
    """
    try:
        _recover(output)
        check_output(output, overwrite=overwrite)
        check_room(output, need)
        made = _make_parents(output.parent)
        stage, lock = _make_stage(output)
        write_marker(stage, ())
    except OSError as error:
        raise ExportError(f"{output}: cannot be written: {error}") from error
    try:
        yield stage
        check_output(output, overwrite=overwrite)
        write_marker(stage, list_files(stage))
        _open_for_others(stage)
        _swap(stage, output, overwrite=overwrite)
    except OSError as error:
        raise ExportError(f"{output}: cannot be written: {error}") from error
    finally:
        _discard(stage)
        os.close(lock)
        if not output.exists():
            for folder in made:
                folder.rmdir()


def _recover(output: Path) -> None:
    """Put right what killed processes left of the same output: unfinished folders go, an older one comes back.

    Only folders with our marker that no process holds; whatever else bears such a name is left alone.
    """
    kinds = [kind.format(output.name) for kind in (_UNFINISHED, _OLD)]
    found = list(output.parent.iterdir()) if output.parent.is_dir() else []
    for folder in [path for path in found if path.name.startswith(tuple(kinds))]:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # no folder: none of ours
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # another process is at work
        else:
            if folder.name.startswith(kinds[1]) and not os.path.lexists(output):
                if _marked(folder):
                    folder.rename(output)
            else:
                _discard(folder)
        finally:
            os.close(descriptor)


def _marked(folder: Path) -> bool:
    try:
        return read_marker(folder) is not None
    except ExportError:
        return False


def _discard(folder: Path) -> None:
    """Remove a temporary folder of ours, as far as it is; anything that somebody put into it stays."""
    with suppress(OSError, ExportError):
        names = read_marker(folder)
        if names is None:
            # Made, and not yet marked when its process was killed; anything else is not empty.
            remove_drafts(folder, MARKER)
            folder.rmdir()
        else:
            remove_owned(folder, names)


def _make_stage(output: Path) -> tuple[Path, int]:
    """Make a temporary folder and hold it: another start may remove one that nobody holds, even before it is held."""
    while True:
        stage = Path(tempfile.mkdtemp(prefix=_UNFINISHED.format(output.name), dir=output.parent))
        with suppress(FileNotFoundError):
            lock = _lock(stage, fcntl.LOCK_EX)
            if stage.exists():
                return stage, lock
            os.close(lock)


def _lock(folder: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> int:
    """Hold a folder until the descriptor is closed or the process dies, where the file system knows how."""
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):
        fcntl.flock(descriptor, how)
    return descriptor


def _make_parents(folder: Path) -> list[Path]:
    """Create missing folders; return those created, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _open_for_others(folder: Path) -> None:
    """Give the folder and its files the permissions of any new ones; temporary folders and safetensors are private."""
    mask = read_umask()
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _swap(stage: Path, output: Path, *, overwrite: bool) -> None:
    """Let the new folder take the name; an older one that may be replaced is left under a temporary name."""
    try:
        stage.rename(output)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
    else:
        return
    check_output(output, overwrite=overwrite)  # another process may have been faster
    if read_marker(output) is None:  # of a version that wrote none
        write_marker(output, owned_names(output))
    if exchange(stage, output):
        return
    # Where two names cannot change places at once, a kill between the renames is put right by the next start.
    old = Path(tempfile.mkdtemp(prefix=_OLD.format(output.name), dir=output.parent))
    try:
        _move_away(output, old, stage)
    finally:
        with suppress(OSError):
            old.rmdir()  # empty still where another process was faster


def _move_away(output: Path, old: Path, stage: Path) -> None:
    lock = _lock(output)
    try:
        output.rename(old)  # onto an empty folder, which goes
        try:
            stage.rename(output)
        except BaseException:
            if not os.path.lexists(output):
                old.rename(output)
            else:  # another process was faster
                _discard(old)
            raise
        _discard(old)
    finally:
        os.close(lock)
