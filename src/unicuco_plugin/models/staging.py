"""A folder that appears complete or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unicuco_plugin.errors import ExportError

__all__ = ["check_output", "staged_folder"]

_UNFINISHED = ".{}.unfinished-"


def check_output(output: Path, *, overwrite: bool, source: Path | None = None) -> None:
    """Refuse an output folder before anything expensive is done for it.

    Args:
        output: Where the checkpoint shall be.
        overwrite: Whether an older checkpoint there may be replaced.
        source: The folder that the dense model is read from, if it is one.

    Raises:
        ExportError: If it exists and may not be replaced, is no checkpoint, or holds the dense model.
    """
    if not output.exists() and not output.is_symlink():
        return
    if source is not None and source.resolve().is_relative_to(output.resolve()):
        raise ExportError(f"{output}: holds the dense model; choose another output folder")
    if not overwrite:
        raise ExportError(f"{output}: already exists; pass --overwrite to replace it")
    # Replacing removes what is there: only ever something that an export may have made.
    if output.is_symlink() or not output.is_dir():
        raise ExportError(f"{output}: is not a folder; it will not be replaced")
    if any(output.iterdir()) and not (output / "config.json").is_file():
        raise ExportError(f"{output}: is not a checkpoint (no config.json); it will not be replaced")


@contextmanager
def staged_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder beside ``output`` that takes its name when the ``with`` ends well.

    After an error nothing is left of it, and an older checkpoint at ``output`` is untouched. What a killed process left
    of the same output is removed first.

    Raises:
        ExportError: If ``output`` may not be written (see :func:`check_output`), or the disk refuses.
    """
    check_output(output, overwrite=overwrite)
    try:
        made = _make_parents(output.parent)
        _remove_leftovers(output)
        stage = Path(tempfile.mkdtemp(prefix=_UNFINISHED.format(output.name), dir=output.parent))
        lock = _lock(stage)
    except OSError as error:
        raise ExportError(f"{output}: cannot be written: {error}") from error
    try:
        yield stage
        check_output(output, overwrite=overwrite)
        _open_for_others(stage)
        _swap(stage, output)
    except OSError as error:
        raise ExportError(f"{output}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        os.close(lock)
        if not output.exists():
            for folder in made:
                folder.rmdir()


def _lock(folder: Path) -> int:
    """Hold a folder until the descriptor is closed or the process dies, where the file system knows how."""
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _remove_leftovers(output: Path) -> None:
    """Remove unfinished folders of the same output that no process holds any more."""
    prefix = _UNFINISHED.format(output.name)
    for folder in [path for path in output.parent.iterdir() if path.name.startswith(prefix)]:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # another process is at work
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _make_parents(folder: Path) -> list[Path]:
    """Create missing folders; return those created, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _open_for_others(folder: Path) -> None:
    """Give the folder and its files the permissions of any new ones; temporary folders and safetensors are private."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _swap(stage: Path, output: Path) -> None:
    if not output.exists():
        stage.rename(output)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{output.name}.old.", dir=output.parent))
    output.rename(old / "checkpoint")
    try:
        stage.rename(output)
    except BaseException:
        (old / "checkpoint").rename(output)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)
