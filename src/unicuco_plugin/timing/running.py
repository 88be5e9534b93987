"""A model run as an engine generates: a prompt, then token after token with a cache, each forward timed."""

import inspect
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter as clock
from typing import Any

import torch
from torch import Tensor

from unicuco_plugin.costs.timings import Device
from unicuco_plugin.errors import CalibrationError, DeviceTableError, quoted
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.reach import Reach
from unicuco_plugin.models.tensors.storage import compute_device
from unicuco_plugin.quantities import Phase

__all__ = ["STEPS", "Generation", "Marks", "check_folder", "clock", "describe_device", "find_device"]

# Tokens that are written after a prompt, timed one by one: few enough that the cache stays about as long as it was.
STEPS = 8
_PROCESSORS = Path("/proc/cpuinfo")
_PACKAGES = ("torch", "transformers")
# The prompt that wakes threads, allocators and kernels up before anything is timed.
_WARM = 16


def check_folder(table: Path) -> None:
    """Refuse, before anything is timed, a table that cannot be written then.

    Raises:
        DeviceTableError: If its folder is missing, or may not be written.
    """
    if not os.access(table.parent, os.W_OK | os.X_OK):
        raise DeviceTableError(f"device table {table} must lie in a folder that can be written, {table.parent} is none")


def find_device(kind: str, table: Path) -> torch.device:
    """The device that a table was measured on.

    Args:
        kind: As the table says it, such as ``cuda:1``.
        table: Its file, for the message.

    Raises:
        DeviceTableError: If this machine has none.
    """
    try:
        where = torch.device(kind)
    except RuntimeError:
        where = torch.device("meta")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    known = accelerator is not None and accelerator.type == where.type
    if where.type != "cpu" and not (known and (where.index or 0) < torch.accelerator.device_count()):
        raise DeviceTableError(
            f"device table {table} was measured on {quoted(kind)}, which this machine has not: measure where it was "
            "made, or profile this device into another file"
        )
    return where


def describe_device(where: torch.device, dtype: str) -> Device:
    """Say where and how a model runs."""
    processor = where.type == "cpu"
    # Apple's devices have no names.
    name = None if processor else getattr(torch.get_device_module(where), "get_device_name", None)
    return Device(
        name=_processor() if processor else str(name(where)) if name else where.type,
        kind=str(where),
        threads=torch.get_num_threads(),
        dtype=dtype.removeprefix("torch."),
        versions={name: version(name) for name in _PACKAGES},
    )


def _processor() -> str:
    lines = _PROCESSORS.read_text(encoding="utf8").splitlines() if _PROCESSORS.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


@dataclass
class Marks:
    """What passes while a model runs: when each half of each block ends.

    Within a block the half that runs first ends with its module, the second one with the block, so that norms and sums
    belong to the half they come before or behind; whatever lies between two blocks belongs to the second.

    Attributes:
        decoder: Whose blocks; it is watched inside :meth:`watching`.
    """

    decoder: Decoder
    _seen: list[tuple[str, Any]] = field(default_factory=list)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on every block, and on its halves where each has a module of its own."""
        now, seen = _find_now(compute_device(self.decoder.model)), self._seen  # what is timed must not wait for either

        def marker(name: str) -> Callable[..., None]:
            return lambda *_: seen.append((name, now()))

        hooks = [self.decoder.blocks[0].register_forward_pre_hook(marker(""))]
        for index, (name, block) in enumerate(zip(self.decoder.block_names, self.decoder.blocks, strict=True)):
            halves = self.decoder.sublayers(index)
            own = halves.values() if len(halves) == 2 else ()
            hooks += [self.decoder.model.get_submodule(half).register_forward_hook(marker(half)) for half in own]
            hooks.append(block.register_forward_hook(marker(name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def take(self) -> dict[str, float]:
        """What each half, or block without halves, took in the last forward, in ms; marks of earlier ones go."""
        begin = max(place for place, (name, _) in enumerate(self._seen) if not name)
        taken, last, inside, blocks = {}, self._seen[begin][1], [], {*self.decoder.block_names}
        for name, at in self._seen[begin + 1 :]:
            if name not in blocks:
                inside.append(name)
                if len(inside) == 1:
                    taken[name], last = _between(last, at), at
                continue
            taken[inside[1] if inside else name], last, inside = _between(last, at), at, []
        self._seen.clear()
        return taken


@dataclass(frozen=True)
class Generation:
    """Runs a model on random tokens; nothing that is timed depends on which.

    Attributes:
        model: A causal language model in evaluation mode, at rest on its device.

    Raises:
        DeviceTableError: If parts of it wait elsewhere, so that moving them would be timed.
    """

    model: Any

    def __post_init__(self) -> None:
        places = sorted({str(parameter.device) for parameter in self.model.parameters()})
        if len(places) > 1 or torch.device(places[0]).type != compute_device(self.model).type:
            raise DeviceTableError(
                f"a model is timed where all of it lies on one device, got parts on {', '.join(places)}: take "
                "--offload none, and a device that it fits"
            )

    def check(self, context: int) -> None:
        """Refuse a context that the model has no positions for.

        Raises:
            DeviceTableError: If it has not, those of a few more tokens included.
        """
        try:
            Reach.of(self.model).check_length(context + STEPS + 1)
        except CalibrationError as error:
            most = Reach.of(self.model).positions
            raise DeviceTableError(
                f"context must leave {STEPS + 1} of the {most} positions that the model has learned, got {context}"
            ) from error

    @torch.inference_mode()
    def run(
        self, batch: int, context: int, steps: int, around: Callable[[Phase, int, float], None] | None = None
    ) -> dict[Phase, list[float]]:
        """Read a prompt and write some tokens.

        Args:
            batch: Sequences.
            context: Tokens of each prompt.
            steps: Tokens that are written; one more is not counted, which pays for what the first one sets up.
            around: Called behind each forward with its phase, its number, -1 if it does not count, and its ms.

        Returns:
            Milliseconds of the prompt, and of each token of all sequences.
        """
        rows = self.model.get_input_embeddings().weight.shape[0]
        ids = torch.randint(0, rows, (batch, context), device=compute_device(self.model))
        cache, prompt = self._forward(ids, None)
        found: dict[Phase, list[float]] = {"prefill": [prompt], "decode": []}
        if around is not None:
            around("prefill", 0, prompt)
        for step in range(-1, steps):
            cache, taken = self._forward(ids[:, -1:], cache)
            if step >= 0:
                found["decode"].append(taken)
            if around is not None:
                around("decode", step, taken)
        return found

    def warm_up(self, batch: int) -> None:
        """Run a short prompt, so that what is timed next is not the first of its kind."""
        self.run(batch, _WARM, 1)

    def _forward(self, ids: Tensor, cache: Any) -> tuple[Any, float]:  # noqa: ANN401 - Transformers' caches
        where = compute_device(self.model)
        # As generation asks: nobody needs the logits of a prompt but the last.
        last = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        options = {"logits_to_keep": 1} if last else {}
        _settle(where)
        began = clock()
        output = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **options)
        _settle(where)
        return output.past_key_values, 1e3 * (clock() - began)


def _settle(where: torch.device) -> None:
    """Wait for an accelerator; a processor has done what it was asked."""
    if where.type != "cpu":
        torch.accelerator.synchronize(where)


def _find_now(where: torch.device) -> Callable[[], Any]:
    """What tells the time: in seconds, or as an event of an accelerator."""
    if where.type == "cpu":
        return clock

    def record() -> Any:  # noqa: ANN401 - PyTorch's event
        event = torch.Event(where, enable_timing=True)
        event.record(torch.accelerator.current_stream(where))  # by default that of the current device
        return event

    return record


def _between(before: Any, after: Any) -> float:  # noqa: ANN401
    """Milliseconds between two moments; the device has been waited for."""
    return 1e3 * (after - before) if isinstance(before, float) else float(before.elapsed_time(after))
