"""Names that a record gives: plain names of files in its own folder, and nothing else."""

from pathlib import Path, PurePosixPath

__all__ = ["check_own_folder", "check_plain_name", "check_relative_name"]

_LONGEST = 255  # bytes, what file systems take


def check_plain_name(name: str) -> str:
    """Return a name if it is a plain one: it leads nowhere, hides nothing, and shows as it is.

    Raises:
        ValueError: If it has a slash, begins with a dot, is empty, longer than 255 bytes, not UTF-8, or holds marks
            that are not printable; the message has the rule and the value.
    """
    try:
        size = len(name.encode("utf8"))
    except UnicodeEncodeError:
        size = _LONGEST + 1
    # Neither control characters, separators of lines nor spaces that look like another.
    bad = any(mark in "/\\:" or not mark.isprintable() for mark in name[: _LONGEST + 1])
    if bad or not 0 < size <= _LONGEST or name.startswith("."):
        raise ValueError(f"must be the plain name of a file, got {name[:60]!r}")
    return name


def check_relative_name(name: str) -> str:
    """Return a path if it is one inside a folder, with ``/``.

    Raises:
        ValueError: If it leads out, is none, or not UTF-8; the message has the rule and the value.
    """
    path = PurePosixPath(name)
    marks = any(mark in name for mark in ("\\", "\0", ":"))
    if path.is_absolute() or ".." in path.parts or not path.parts or marks or path.as_posix() != name:
        raise ValueError(f"path must lie inside the folder, got {name[:60]!r}")
    try:
        name.encode("utf8")
    except UnicodeEncodeError as error:
        raise ValueError(f"path must be UTF-8, got {name[:60]!r}") from error
    return name


def check_own_folder(folder: Path) -> Path:
    """Return a folder inside an output, which need not exist, if writing into it stays inside.

    Raises:
        OSError: If it is a link, which the sender of a received folder may have pointed anywhere, or no folder.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OSError(f"{folder} must be a folder of its own; remove what is there")
    return folder
