"""Parts of the zoo: one of so many for a nightly run, a tenth that changes every day for every other."""

import datetime
from collections.abc import Iterable

__all__ = ["TENTHS", "read_shard", "shard", "tenth_of_today"]

TENTHS = 10


def read_shard(text: str) -> tuple[int, int]:
    """Read ``"3/10"``, the third of ten, as (2, 10).

    Raises:
        ValueError: If it is not such a part.
    """
    part, _, count = text.partition("/")
    index, parts = int(part) - 1, int(count)
    if not 0 <= index < parts:
        raise ValueError(f"a shard must be K/N with 1 <= K <= N, got {text}")
    return index, parts


def shard(names: Iterable[str], part: tuple[int, int]) -> list[str]:
    """Every n-th name, so that relatives, which take as long, are spread over the parts."""
    index, parts = part
    return sorted(names)[index::parts]


def tenth_of_today() -> int:
    """Which tenth is due, 1 to 10, by the day in UTC."""
    return datetime.datetime.now(datetime.UTC).date().toordinal() % TENTHS + 1
