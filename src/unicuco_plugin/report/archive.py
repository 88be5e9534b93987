"""A packed or unpacked checkpoint in words."""

from typing import TYPE_CHECKING

from unicuco_plugin.escaping import escape_line
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.report.table import format_bytes

if TYPE_CHECKING:  # it brings NumPy with it
    from unicuco_plugin.models.checkpoints.archive import Packed

__all__ = ["archive_data", "describe_pack", "describe_unpack"]


def describe_pack(packed: "Packed") -> str:
    """Say what packing brought."""
    gain = packed.archive_bytes < packed.folder_bytes
    lines = [
        f"before   {packed.files} files, {packed.folder_bytes:,} bytes ({format_bytes(packed.folder_bytes)})",
        f"archive  {packed.path}: {packed.archive_bytes:,} bytes ({format_bytes(packed.archive_bytes)})",
        f"ratio    {_ratio(packed):.4f}{'' if gain else '; no gain: too few of its numbers, as stored, are zero'}",
    ]
    return "\n".join(map(escape_line, lines))


def describe_unpack(packed: "Packed") -> str:
    """Say what came out."""
    size = f"{packed.files} files, {packed.folder_bytes:,} bytes ({format_bytes(packed.folder_bytes)})"
    return escape_line(f"checkpoint  {packed.path}: {size}, all checksums correct")


def archive_data(packed: "Packed") -> str:
    """The same as one line of JSON."""
    data = {
        "path": str(packed.path),
        "files": packed.files,
        "folder_bytes": packed.folder_bytes,
        "archive_bytes": packed.archive_bytes,
        "ratio": round(_ratio(packed), 6),
    }
    return json_text(data)


def _ratio(packed: "Packed") -> float:
    return packed.archive_bytes / max(packed.folder_bytes, 1)
