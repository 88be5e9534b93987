"""A picture from first to last: made without a display, written whole or not at all."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unicuco_plugin.errors import ExportError
from unicuco_plugin.files.draft import draft, remove_drafts
from unicuco_plugin.files.received import read_bytes

__all__ = ["COLOURS", "MARKERS", "check_picture", "new_figure", "save_figure"]

_FORMATS = (".png", ".svg", ".pdf")
# What a picture says about who drew it, in the field that each format has for that.
_MARK = "drawn by unicuco-plugin"
_FIELDS = {"png": "Software", "svg": "Creator", "pdf": "Creator"}
_LARGEST = 2**26
# Okabe and Ito's, told apart by colour-blind readers, the darkest first; markers tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#8A8A00")
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "<", ">")


def check_picture(path: Path, endings: Sequence[str] = _FORMATS, kind: str = "picture") -> None:
    """Refuse a file that no picture can be written to, or nothing else that says who drew it.

    Raises:
        ExportError: If the ending is none of .png, .svg and .pdf, or of those given, the folder does not exist, or
            there is something that we did not draw.
    """
    if path.suffix.lower() not in endings:
        raise ExportError(f"{path}: a {kind}'s name must end in {', '.join(endings)}")
    if not path.parent.is_dir():
        raise ExportError(f"{path}: no such folder {path.parent}")
    if os.path.lexists(path) and not _is_ours(path):
        raise ExportError(f"{path}: is not a {kind} of unicuco's; it will not be replaced: choose another name")


def new_figure(width: float, height: float) -> Any:  # noqa: ANN401 - matplotlib is untyped
    """An empty figure, in inches."""
    # Slow to import. The figure is made without pyplot: no backend is chosen and nothing global is kept.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:  # noqa: ANN401
    """Write a figure in the format that the file's ending names, replacing the file if it exists.

    Raises:
        ExportError: As :func:`check_picture`, or if the file cannot be written.
    """
    check_picture(path)
    try:
        remove_drafts(path.parent, path.name)
        with draft(path) as file:
            kind = path.suffix.lower()[1:]
            figure.savefig(file, format=kind, dpi=150, metadata={_FIELDS[kind]: _MARK})
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error}") from error


def _is_ours(path: Path) -> bool:
    try:
        return _MARK.encode() in read_bytes(path, largest=_LARGEST, follow=False)
    except OSError:
        return False
