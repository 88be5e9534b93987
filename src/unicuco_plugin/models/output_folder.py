"""Whether an output folder may be written: nothing is replaced that we did not write, and the disk has room."""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from unicuco_plugin.errors import ExportError, listed
from unicuco_plugin.files.received import read_text
from unicuco_plugin.ownership import find_foreign, list_files, read_marker

__all__ = ["check_output", "check_room", "free_bytes", "owned_names"]

# Exports of versions that wrote no marker: their files, and the tag of their model card.
_UNMARKED = re.compile(
    r"config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|"
    r"recipe\.yaml|README\.md|strategy\.json|sparsity\.json|structured\.parts|modeling_compact\.py|"
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt|chat_template\.jinja|"
    r"(tokenizer|spiece|sentencepiece\.bpe)\.model"
)
_TAG = "- unicuco-plugin\n"


def check_output(
    output: Path, *, overwrite: bool, source: Path | None = None, inputs: Iterable[str | Path | None] = ()
) -> None:
    """Refuse an output folder before anything expensive is done for it.

    Args:
        output: Where the checkpoint shall be.
        overwrite: Whether an older checkpoint there may be replaced.
        source: The folder that the dense model is read from, if it is one.
        inputs: Whatever else is read; names that are no files or folders are passed over.

    Raises:
        ExportError: If it exists and may not be replaced, holds something that we did not write, or an input.
    """
    if not output.exists() and not output.is_symlink():
        return
    if source is not None and _lies_in(source, output):
        raise ExportError(f"{output}: holds the dense model; choose another output folder")
    for given in inputs:
        if given is not None and Path(given).expanduser().exists() and _lies_in(Path(given).expanduser(), output):
            raise ExportError(f"{output}: holds {given}, which is read; choose another output folder")
    if not overwrite:
        raise ExportError(f"{output}: already exists; pass --overwrite to replace it")
    # Replacing removes what is there: only ever what we wrote.
    if output.is_symlink() or not output.is_dir():
        raise ExportError(f"{output}: is not a folder; it will not be replaced")
    owned_names(output)


def free_bytes(output: Path) -> int:
    """Free bytes of the disk that an output is on, or will be on when it is made."""
    return shutil.disk_usage(next(path for path in (output, *output.absolute().parents) if path.exists())).free


def check_room(output: Path, need: int) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        output: What will be written, which need not exist.
        need: Its bytes, at least.

    Raises:
        ExportError: If fewer are free; the message has both numbers.
    """
    free = free_bytes(output)
    if need > free:
        raise ExportError(
            f"{output}: needs {need:,} bytes, the disk has {free:,} free; make room or choose another output"
        )


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def owned_names(output: Path) -> frozenset[str]:
    """The files of a folder that may be replaced.

    Raises:
        ExportError: If it holds anything else; the message names what.
    """
    names = read_marker(output)
    if names is None:
        return _unmarked(output)
    foreign = find_foreign(output, names)
    if foreign:
        raise ExportError(
            f"{output}: holds {_named(foreign)} beside what unicuco wrote; it will not be replaced: move them away, "
            "or choose another output"
        )
    return names


def _unmarked(output: Path) -> frozenset[str]:
    names = frozenset(list_files(output))
    foreign = [name for name in sorted(names) if not _UNMARKED.fullmatch(name) or (output / name).is_symlink()]
    if names and not (output / "config.json").is_file():
        raise ExportError(f"{output}: is not a checkpoint (no config.json); it will not be replaced")
    if not names or (names == {"config.json"} and _is_void(output / "config.json")):
        return names
    if foreign or not _has_our_card(output):
        raise ExportError(
            f"{output}: holds {_named(foreign or sorted(names))} and no list of unicuco's own files; it will not be "
            "replaced: move it away, or choose another output"
        )
    return names


def _named(names: list[str]) -> str:
    return listed([repr(name[:60]).strip("'") for name in names])


def _is_void(config: Path) -> bool:
    """Whether a configuration says nothing: what is left of a checkpoint, of use to nobody."""
    try:
        return json.loads(read_text(config, largest=2**20, follow=False)) in ({}, [], None)
    except (OSError, ValueError, RecursionError):
        return True


def _has_our_card(folder: Path) -> bool:
    try:
        return _TAG in read_text(folder / "README.md", largest=2**24, follow=False)
    except (OSError, ValueError):
        return False
