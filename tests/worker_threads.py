"""Workers in threads of one process, for tests of what is done by them."""

import contextlib
import pickle
import threading
from types import SimpleNamespace

from unicuco_plugin.executors.crew import LostError


class Threads:
    """Workers in threads of this process, which take turns, for ``RayWorkers``.

    Attributes:
        count: The most workers.
        script: Called before each task with how many there were, and the task.
        after: Given what comes of each, returns what arrives.
        pickled: Whether what they do is sent as to another process.
        tasks: What was done: the worker's number and the last of what it was given that is a name.
    """

    def __init__(self, count=2, script=lambda _count, _task: None, after=lambda found: found, *, pickled=False):
        self.count, self.script, self.after, self.pickled = count, script, after, pickled
        self.tasks, self.turn, self.hired = [], threading.Lock(), 0

    @contextlib.contextmanager
    def at(self, opening, _device, _store=0):
        def hire():
            self.hired += 1
            return Hired(self, opening, self.hired)

        opening = pickle.loads(pickle.dumps(opening)) if self.pickled else opening  # noqa: S301 - ours
        yield SimpleNamespace(hire=hire, keep=lambda value: SimpleNamespace(read=lambda: value))


class Hired:
    """One of them."""

    def __init__(self, pool, opening, number):
        self.pool, self.opening, self.number, self.ended = pool, opening, number, False

    def load(self):
        with self.pool.turn:
            self.opened = self.opening.open()

    def do(self, *task):
        with self.pool.turn:
            if self.ended:
                raise LostError("ended")
            self.pool.tasks.append((self.number, [part for part in task if isinstance(part, str)][-1]))
            self.pool.script(len(self.pool.tasks), task)
            return self.pool.after(self.opened(*task))

    def end(self):
        """Threads end by themselves, once they have done what they are at."""
        self.ended = True
