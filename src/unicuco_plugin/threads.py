"""How many threads torch works in."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread"]

_turn = threading.RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work in one thread until the end of the ``with``, or of the function that this decorates.

    Sums end in other last digits where several threads share them, so that of two strategies that are as good as equal
    another one may win. Matrices that threads wait for longer than they work on are also done sooner by one. Whoever
    asks from several threads at once gets a turn each: the number is the process's.
    """
    with _turn:
        threads = torch.get_num_threads()
        if threads > 1:
            torch.set_num_threads(1)
            try:
                yield
            finally:
                torch.set_num_threads(threads)
            return
    yield
