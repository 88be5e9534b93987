"""Plain text tables, and numbers in the size that people read."""

from collections.abc import Sequence

from unicuco_plugin.escaping import escape_line

__all__ = ["format_bytes", "format_count", "format_ms", "format_seconds", "format_table"]

_STEPS = ("", "k", "M", "G", "T")


def format_count(value: float) -> str:
    """Write a number of parameters or tokens with four digits at most: ``106.2 M``."""
    return _scale(value)


def format_bytes(value: float) -> str:
    """Write a number of bytes in powers of 1000, as disks and the hub do: ``212.4 MB``."""
    scaled = _scale(value)
    return f"{scaled}B" if " " in scaled else f"{scaled} B"


def format_ms(value: float) -> str:
    """Write milliseconds in four digits: ``61.24``."""
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def format_seconds(value: float) -> str:
    """Write a duration: ``0.42 s``, ``12.3 s``, ``4 min 05 s`` or ``2 h 10 min``."""
    if value < 1:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Align rows in columns under a header and a rule.

    Args:
        header: One title a column.
        rows: One text a column and row; control characters in it are escaped, since names may come from anywhere.
        right: Columns, counted from 0, that are aligned to the right, as numbers are.

    Returns:
        Lines without trailing blanks, and no newline at the end.
    """
    header, rows = list(map(escape_line, header)), [list(map(escape_line, row)) for row in rows]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]

    def align(text: str, column: int) -> str:
        return text.rjust(widths[column]) if column in right else text.ljust(widths[column])

    return "\n".join("  ".join(align(text, column) for column, text in enumerate(row)).rstrip() for row in lines)


def _scale(value: float) -> str:
    step = 0
    # 999.95 would be written 1000.0.
    while abs(value) >= 999.95 and step < len(_STEPS) - 1:
        value /= 1000
        step += 1
    return f"{value:.1f} {_STEPS[step]}" if step else f"{value:g}"
