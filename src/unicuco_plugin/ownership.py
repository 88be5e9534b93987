"""Which files of a folder are ours: a marker that lists what we wrote, the only things that are ever replaced."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from unicuco_plugin.errors import ExportError
from unicuco_plugin.files.draft import is_draft, remove_drafts, write_whole
from unicuco_plugin.files.names import check_relative_name
from unicuco_plugin.signed import SignedDocument

__all__ = ["MARKER", "claim", "find_foreign", "list_files", "read_marker", "remove_owned", "write_marker"]

MARKER = ".unicuco-files.json"
_DOCUMENT = SignedDocument("marker", 1, ExportError, "remove the folder by hand, or choose another output")
# How many foreign entries are looked for: what a message names, and one more.
_NAMED = 4


def write_marker(folder: Path, names: Iterable[str]) -> None:
    """Say which files of a folder are ours; an empty list marks a folder that is ours whole, and unfinished.

    Args:
        folder: The folder.
        names: Files, and empty folders with a slash behind them, relative to ``folder``, with ``/``.

    Raises:
        OSError: If the disk refuses.
    """
    write_whole(folder / MARKER, _DOCUMENT.dumps({"files": sorted(names)}))


def read_marker(folder: Path) -> frozenset[str] | None:
    """Return what :func:`write_marker` was given; None where there is no marker.

    Raises:
        ExportError: If there is one, and it is damaged or no list of names.
    """
    if not os.path.lexists(folder / MARKER):
        return None
    names = _DOCUMENT.read(folder / MARKER, follow=False).get("files")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ExportError(f"marker {folder / MARKER} is damaged: files must be a list of names")
    try:
        for name in names:
            check_relative_name(name.removesuffix("/"))
    except ValueError as error:
        raise ExportError(f"marker {folder / MARKER} is damaged: {error}") from error
    return frozenset(names)


def claim(folder: Path, names: Iterable[str]) -> None:
    """Say that files of a folder are ours before they are written, beside what the marker lists already.

    Raises:
        ExportError: If one is there and the marker does not list it, or the marker cannot be read or written.
    """
    names, known = set(names), read_marker(folder) or frozenset()
    foreign = sorted(name for name in names - known if os.path.lexists(folder / name))
    if foreign:
        raise ExportError(
            f"{folder}: holds {', '.join(foreign)}, which unicuco did not write; it will not be replaced: move it "
            "away, or choose another output"
        )
    if names - known:
        try:
            write_marker(folder, known | names)
        except OSError as error:
            raise ExportError(f"{folder}: cannot be written: {error}") from error


def list_files(folder: Path) -> set[str]:
    """Every file of a folder but the marker and its drafts, and every empty folder with a slash behind it."""
    return {name for name in _walk(folder) if name != MARKER}


def find_foreign(folder: Path, names: Iterable[str]) -> list[str]:
    """What a folder holds beside the marker and these names, the first few; a link is never ours."""
    known = set(names) | {MARKER}
    found = []
    for name in _walk(folder):
        # Of a folder that we filled, somebody may have removed what was in it.
        emptied = name.endswith("/") and any(other.startswith(name) for other in known)
        if (folder / name).is_symlink() or not (name in known or emptied):
            found.append(name)
        if len(found) == _NAMED:
            break
    return found


def remove_owned(folder: Path, names: Iterable[str]) -> bool:
    """Remove these files, the marker and what killed processes left of it, then the folders that this leaves empty.

    Args:
        folder: The folder; it goes as well if nothing is left in it.
        names: As :func:`read_marker` returned them; none for an unfinished folder, which goes whole.

    Returns:
        Whether the folder is gone.

    Raises:
        OSError: If the disk refuses.
    """
    names = set(names)
    for path in () if names else list(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()
    for name in sorted(names & set(_walk(folder))):
        if not name.endswith("/"):
            (folder / name).unlink(missing_ok=True)
    parents = {parent for name in names for parent in (PurePosixPath(name), *PurePosixPath(name).parents)}
    for parent in sorted(parents - {PurePosixPath()}, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):
            (folder / parent).rmdir()
    # The marker goes last: after a kill it says that the rest is ours, too.
    remove_drafts(folder, MARKER)
    (folder / MARKER).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def _walk(folder: Path) -> Iterator[str]:
    """Names of files, links and empty folders, in order, links not followed; a draft of the marker is none of them."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        at = Path(place)
        links = [name for name in folders if (at / name).is_symlink()]
        for name in sorted([*files, *links]):
            if at == folder and is_draft(name, MARKER) and not (at / name).is_symlink():
                continue
            yield (at / name).relative_to(folder).as_posix()
        if not files and not folders and at != folder:
            yield f"{at.relative_to(folder).as_posix()}/"
