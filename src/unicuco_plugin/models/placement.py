"""Where weights are while a model runs: on its device, or those of its blocks in memory or files until they are needed.

What lies outside the blocks (embedding, last norm, head) is on the device in any case. The toolkit's offloading does
the rest: reading a parameter of a block gives it on the device for as long as it is used.
"""

import logging
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from compressed_tensors.offload import dispatch_with_map
from compressed_tensors.offload.cache import DiskCache
from compressed_tensors.offload.convert.from_accelerate import remove_accelerate
from torch import Tensor, nn
from transformers import PreTrainedModel

from unicuco_plugin.errors import UnsupportedModelError, quoted
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.scratch import make_scratch, remove_scratch
from unicuco_plugin.models.tensors.memory import free_memory
from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = ["OFFLOADS", "Offload", "Placement", "place_model", "place_whole"]

Offload: TypeAlias = Literal["auto", "cpu", "disk", "none"]
OFFLOADS: tuple[Offload, ...] = ("auto", "cpu", "disk", "none")

# Memory that a model takes where it runs, as a multiple of its weights: a choice, the rest is for states and logits.
_ROOM = 1.2
_SPREAD = "auto"


@dataclass(frozen=True)
class Placement:
    """What was decided.

    Attributes:
        device: Where the model computes; ``auto`` where its blocks are spread over several accelerators.
        offload: Where blocks wait: ``cpu``, ``disk``, or ``none``, on the device.
        map: What is where, as Transformers takes it; None for a model that is wholly on one device.
        limits: Bytes of each device that it may take, where blocks are spread.
        converts: Whether weights on disk are brought to another dtype when they are read, rather than when the model is
            loaded: Transformers then maps all files into memory at once.
        reason: Why, in one line.
    """

    device: str = "cpu"
    offload: Offload = "none"
    map: dict[str, str] | str | None = None
    limits: dict[int | str, int] | None = None
    converts: bool = False
    reason: str = ""

    @contextmanager
    def loading(self, dtype: str | torch.dtype) -> Iterator[dict[str, Any]]:
        """What ``from_pretrained`` is given beside the model; the folder in it is removed if the ``with`` fails."""
        given: dict[str, Any] = {"dtype": "auto" if self.converts else dtype}
        if self.map is None:
            yield given
            return
        given |= {"device_map": self.map, "offload_buffers": True}
        if self.limits is not None:
            given["max_memory"] = self.limits
        folder = make_scratch() if self.offload == "disk" or self.map == _SPREAD else None
        # It tells that tensors are where they were asked to be, and that a buffer is no module.
        logger = logging.getLogger("accelerate.big_modeling")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The following device_map keys do not match any submodules")
                yield given if folder is None else given | {"offload_folder": folder}
        except BaseException:
            if folder is not None:
                remove_scratch(folder)
            raise
        finally:
            logger.setLevel(level)

    def put(self, model: PreTrainedModel, dtype: str | torch.dtype, given: Mapping[str, Any]) -> PreTrainedModel:
        """Bring a model that was loaded so to its place; its blocks are handed to the toolkit's offloading, unread.

        What it needs beside its files is removed with it.

        Args:
            model: The model.
            dtype: What it shall compute in.
            given: What :meth:`loading` gave.
        """
        if self.map is None:
            return model.to(self.device)
        devices, folder = remove_accelerate(model)
        dispatch_with_map(model, devices, folder, show_progress=False)
        if "offload_folder" in given:  # even where all had room elsewhere
            weakref.finalize(model, remove_scratch, given["offload_folder"])
        if self.converts and isinstance(dtype, torch.dtype):
            _convert(model, dtype)
        return model


def place_model(sketch: PreTrainedModel, dtype: torch.dtype, device: str | torch.device, offload: Offload) -> Placement:
    """Decide where a model's weights are.

    Args:
        sketch: The model without weights.
        dtype: What it will compute in.
        device: Where it computes; ``auto`` takes the accelerators that there are, or the CPU.
        offload: Where blocks wait until they are needed; ``auto`` takes the fastest place that has room.

    Raises:
        UnsupportedModelError: If its blocks cannot be found, or there is no such ``offload``.
    """
    if offload not in OFFLOADS:
        raise UnsupportedModelError(f"offload must be one of {', '.join(OFFLOADS)}, got {quoted(offload)}")
    need = sum(parameter.numel() for parameter in sketch.parameters()) * dtype.itemsize
    size = f"{need / 1e9:,.1f} GB of weights in {str(dtype).removeprefix('torch.')}"
    device = _find_device(device)
    if device == _SPREAD:
        return _spread(need, size, offload)
    host = torch.device(device).type == "cpu"
    reason = "as asked"
    if offload == "auto":
        free = free_memory(device)
        reason = f"{_gigabytes(free)} GB are free on {device}"
        if need * _ROOM <= free:
            offload = "none"
        elif not host and need * _ROOM <= free_memory():
            offload = "cpu"
            reason += f", {_gigabytes(free_memory())} GB in memory"
        else:
            offload = "disk"
            reason += "" if host else f", {_gigabytes(free_memory())} GB in memory"
    if offload == "none" or (host and offload == "cpu"):
        return Placement(device, reason=f"{size} on {device}: {reason}")
    where = {"cpu": "in memory", "disk": "in files"}[offload]
    told = f"{size}, run on {device}, blocks {where} until they are needed (--offload {offload}): {reason}"
    # Those that a class keeps in float32 are Transformers' to find.
    keeps = sketch._keep_in_fp32_modules or sketch._keep_in_fp32_modules_strict
    places = _around_blocks(sketch, device, offload)
    return Placement(device, offload, places, converts=offload == "disk" and not keeps, reason=told)


def place_whole(device: str | torch.device, reason: str = "") -> Placement:
    """Where a model is whose blocks are not known: on its device, or spread by Transformers alone."""
    found = _find_device(device)
    return Placement(found, map=_SPREAD if found == _SPREAD else None, reason=reason and f"on {found}: {reason}")


def _find_device(device: str | torch.device) -> str:
    if str(device) != _SPREAD:
        return str(device)
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if count > 1:
        return _SPREAD
    return str(cast(torch.device, torch.accelerator.current_accelerator())) if count else "cpu"


def _spread(need: int, size: str, offload: Offload) -> Placement:
    """Blocks one behind the other over all accelerators; what they have no room for waits in memory, or in files."""
    kind = cast(torch.device, torch.accelerator.current_accelerator()).type
    free: dict[int | str, int] = {
        index: int(torch.accelerator.get_memory_info(index)[0] / _ROOM)
        for index in range(torch.accelerator.device_count())
    }
    total = sum(free.values())
    if offload == "auto":
        offload = "none" if need <= total else "cpu" if need <= total + free_memory() / _ROOM else "disk"
    free["cpu"] = 0 if offload in ("none", "disk") else int(free_memory() / _ROOM)
    rest = {"none": "", "cpu": ", the rest in memory", "disk": ", the rest in files"}[offload]
    told = f"{size} over {len(free) - 1} {kind} devices{rest} (--offload {offload}): they have room for "
    return Placement(_SPREAD, offload, _SPREAD, free, reason=f"{told}{_gigabytes(total)} GB")


def _around_blocks(sketch: PreTrainedModel, device: str, blocks: str) -> dict[str, str]:
    """A place for the list of blocks, and one for everything else."""
    path = find_decoder(sketch).blocks_name.split(".")
    places: dict[str, str] = {}
    module: nn.Module = sketch
    for depth, step in enumerate(path):
        prefix = "".join(f"{name}." for name in path[:depth])
        own = [*dict(module.named_parameters(recurse=False)), *dict(module.named_buffers(recurse=False))]
        beside = [name for name, _ in module.named_children() if name != step]
        places |= {f"{prefix}{name}": device for name in [*own, *beside]}
        module = module.get_submodule(step)
    return places | {".".join(path): blocks}


def _convert(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Let a model that was loaded in its own dtype compute in another; what is on disk is converted when it is read."""
    before = model.dtype
    if dtype == before:
        return
    made: dict[Tensor, Tensor] = {}
    with kept_tensors():
        for module in model.modules():
            for name, kept in module._parameters.items():
                if kept is None or kept.dtype != before:
                    continue
                if kept not in made and kept not in DiskCache.index:
                    kept.data = kept.data.to(dtype)
                    continue
                if kept not in made:
                    made[kept] = nn.Parameter(kept.detach().to(dtype), requires_grad=kept.requires_grad)
                    _index_again(kept, made[kept], dtype)
                module._parameters[name] = made[kept]
    model.config.dtype = dtype


def _index_again(kept: Tensor, new: Tensor, dtype: torch.dtype) -> None:
    """Let a new tensor stand for one on disk, whose file then bears the new one's name.

    The toolkit names files by the ids of tensors: the name of one that is gone would be given out again.
    """
    entry = DiskCache.index.pop(kept)
    old = Path(entry["safetensors_file"])
    path = old.rename(DiskCache._get_ct_file_path(str(old.parent), new))
    DiskCache.index[new] = entry | {"safetensors_file": str(path), "dtype": str(dtype).removeprefix("torch.")}


def _gigabytes(amount: float) -> str:
    return f"{amount / 1e9:,.1f}"
