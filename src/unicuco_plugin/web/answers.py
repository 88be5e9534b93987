"""Answers for many clients: what waits for one profile is answered together, what was answered is kept for a while."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from unicuco_plugin.answering import Profile
from unicuco_plugin.errors import UnicucoError
from unicuco_plugin.request import Request
from unicuco_plugin.web.library import Served

__all__ = ["Answer", "Answers", "BusyError", "answer_each"]

# Answered together: as many as descend at once in a smooth space (``policy/contest.py``).
TOGETHER = 16
# Requests that may wait in one worker, and answers that it keeps, of some kilobytes each.
_MOST_WAITING, _MOST_KEPT = 2_048, 2_048
_LONGEST = 30.0  # seconds that a request may wait


class BusyError(UnicucoError):
    """More requests wait than can be answered in time; the client may ask again."""


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    Attributes:
        text: The strategy, one line of JSON; empty where there is none.
        error: Why the request cannot be met.
    """

    text: str = ""
    error: UnicucoError | None = None


def answer_each(profile: Profile, requests: Sequence[Request]) -> list[Answer]:
    """Answer requests together, and those that cannot be met with their errors.

    Where one cannot be, both halves are tried apart: refusals come early, and answers that are found are kept.
    """
    if not requests:
        return []
    try:
        return [Answer(strategy.to_json()) for strategy in profile.answer_many(requests)]
    except UnicucoError as error:
        if len(requests) == 1:
            return [Answer(error=_bare(error))]
    middle = len(requests) // 2
    return answer_each(profile, requests[:middle]) + answer_each(profile, requests[middle:])


def _bare(error: UnicucoError) -> UnicucoError:
    """An error that may be kept: without the frames that it came through, which hold the whole profile."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


@dataclass(frozen=True, eq=False)
class _Waiting:
    request: Request
    future: "asyncio.Future[Answer]"


class Answers:
    """Answers in one thread of their own, while the event loop goes on; profiles take turns.

    Args:
        counted: Called with a profile's name, ``kept``, ``found`` or ``refused``, and how many.
        waiting: Called with the number of requests that wait.
    """

    def __init__(
        self,
        counted: Callable[[str, str, int], None] = lambda _name, _outcome, _count: None,
        waiting: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self.thread = ThreadPoolExecutor(1, "answers")
        self._counted, self._heard = counted, waiting
        self._lines: OrderedDict[Served, deque[_Waiting]] = OrderedDict()
        self._kept: OrderedDict[tuple[str, str, Request], Answer] = OrderedDict()
        self._running: asyncio.Task[None] | None = None

    async def ask(self, served: Served, requests: Sequence[Request]) -> list[Answer]:
        """Answer requests of one profile, in order.

        Raises:
            BusyError: If too many wait already, or it takes too long.
        """
        keys = [(served.name, served.digest, request) for request in requests]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        if found:
            self._counted(served.name, "kept", sum(key in found for key in keys))
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if sum(map(len, self._lines.values())) + len(missing) > _MOST_WAITING:
            raise BusyError(f"requests must wait in a line of at most {_MOST_WAITING}; ask again later")
        if not missing:
            return [found[key] for key in keys]
        loop = asyncio.get_running_loop()
        futures = {key: loop.create_future() for key in missing}
        self._lines.setdefault(served, deque()).extend(_Waiting(key[2], future) for key, future in futures.items())
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run())
        try:
            async with asyncio.timeout(_LONGEST):
                found |= {key: await future for key, future in futures.items()}
        except TimeoutError as error:
            raise BusyError(f"requests must be answered within {_LONGEST:g} seconds; ask again later") from error
        finally:
            for future in futures.values():
                future.cancel()
        self._keep(found)
        return [found[key] for key in keys]

    def _keep(self, found: dict[tuple[str, str, Request], Answer]) -> None:
        self._kept |= found
        for key in found:
            self._kept.move_to_end(key)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)

    async def _run(self) -> None:
        """Answer what waits, one profile's first few after the other's, until nothing does."""
        loop = asyncio.get_running_loop()
        while self._lines:
            self._heard(sum(map(len, self._lines.values())))
            served, line = self._lines.popitem(last=False)
            batch, rest = _split(line)
            if rest:
                self._lines[served] = rest  # behind the others
            try:
                answers = await loop.run_in_executor(
                    self.thread, answer_each, served.profile, [waiting.request for waiting in batch]
                )
            except Exception as error:
                for waiting in batch:
                    if not waiting.future.done():
                        waiting.future.set_exception(error)
                continue
            refused = sum(answer.error is not None for answer in answers)
            self._counted(served.name, "found", len(answers) - refused)
            self._counted(served.name, "refused", refused)
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(answer)
        self._heard(0)


def _split(line: deque[_Waiting]) -> tuple[list[_Waiting], deque[_Waiting]]:
    """The first few of one kind and load, and the rest: others may take longer, and all of a batch is done at once."""
    waiting = [one for one in line if not one.future.done()]
    batch = [one for one in waiting if _alike(one.request, waiting[0].request)][:TOGETHER]
    taken = set(map(id, batch))
    return batch, deque(one for one in waiting if id(one) not in taken)


def _alike(one: Request, other: Request) -> bool:
    """Whether two requests are met in one race: memory has one of its own under every load."""
    return (one.kind, one.load) == (other.kind, other.load)
