"""What stays in memory while there is room: values of several kinds, with one limit for all of them."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

__all__ = ["Cache", "Kind"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Kind(Generic[Key, Value]):
    """Values of one kind.

    Args:
        size: Bytes of a value.
    """

    def __init__(self, size: Callable[[Value], int]) -> None:
        self._size = size
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    @property
    def nbytes(self) -> int:
        """Of all its values."""
        return self._bytes

    def find(self, key: Key) -> Value | None:
        """The value, which is then the one used last; None where it is not there."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def add(self, key: Key, value: Value) -> None:
        """Hold a value that was not there."""
        self._values[key] = value
        self._bytes += self._size(value)

    def shed(self) -> None:
        """Let go of the value that was used least recently."""
        self._bytes -= self._size(self._values.popitem(last=False)[1])


class Cache:
    """One limit for several kinds.

    Args:
        most: Bytes of all of them, but for one value of each kind, which always stays.
        kinds: Which goes first.
    """

    def __init__(self, most: float, kinds: Sequence[Kind[Any, Any]]) -> None:
        self._most, self._kinds = most, kinds

    def add(self, kind: Kind[Key, Value], key: Key, value: Value) -> Value:
        """Hold a value, and let go of others.

        Args:
            kind: One of those it was given.
            key: Of the value.
            value: That was not there.

        Returns:
            The value.
        """
        kind.add(key, value)
        total = sum(one.nbytes for one in self._kinds)
        for one in self._kinds:
            while total > self._most and len(one) > 1:
                total -= one.nbytes
                one.shed()
                total += one.nbytes
        return value
