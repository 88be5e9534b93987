"""Files of requests, one as a JSON object on each line."""

from pathlib import Path

from unicuco_plugin.errors import RequestError, quoted
from unicuco_plugin.files.received import parse_json, read_text
from unicuco_plugin.request import Request

__all__ = ["read_requests"]

# Far more than a table of answers is read for.
_MOST_BYTES, _MOST_LINES, _LONGEST_LINE = 64 * 2**20, 100_000, 10_000


def read_requests(path: Path) -> list[Request]:
    """Read one JSON request a line; blank lines are skipped.

    Raises:
        RequestError: If the file is no regular file, cannot be read, has more than 64 MiB or 100 000 lines, or holds no
            request; or a line is not one or has more than 10 000 characters; the message names the line.
    """
    try:
        lines = read_text(path, largest=_MOST_BYTES).split("\n", _MOST_LINES + 1)
    except (OSError, ValueError) as error:
        raise RequestError(f"request file {path} cannot be read: {error}") from error
    if len(lines) > _MOST_LINES + 1:  # behind the last line break there is nothing
        raise RequestError(f"request file {path} must have at most {_MOST_LINES} lines")
    requests = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            requests.append(_read_line(line))
        except ValueError as error:  # ours, JSON's, and Python's own for an integer of too many digits
            raise RequestError(f"{path}, line {number}: {error}") from error
    if not requests:
        raise RequestError(f"request file {path} holds no request; write one JSON object per line")
    return requests


def _read_line(line: str) -> Request:
    if len(line) > _LONGEST_LINE:
        raise RequestError(f"a request must have at most {_LONGEST_LINE} characters, got {len(line)}")
    fields = parse_json(line)
    if not isinstance(fields, dict):
        raise RequestError(f'expected an object such as {{"sparsity": 0.25}}, got {quoted(line.strip())}')
    return Request.of(**fields)
