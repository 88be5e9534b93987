"""Processes that torchrun has started to work on one model together, each with a rank: what llm-compressor leaves open.

Seen in llm-compressor 0.14.0.1 with compressed-tensors 0.19.0, two ranks on the CPU, whose weights are in memory that
all ranks share:

- A rank goes on before others have written the linears that are theirs, and calibrates on some that are not yet pruned.
- ``SparseGPTModifier`` and ``WandaPruningModifier`` sum nothing over ranks: each prunes all linears on its own text.
- A dataset that all ranks are given is not divided: each reads its first part, and nobody the rest.
- Packed weights come out of a save as tensors that are no parameters, which ends every rank.
"""

import hashlib
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from compressed_tensors import ModelCompressor
from compressed_tensors.offload import OffloadCache
from llmcompressor.modifiers import Modifier
from llmcompressor.transformers.compression.compressed_tensors_utils import modify_save_pretrained
from loguru import logger
from torch import Tensor, nn

from unicuco_plugin.errors import CalibrationError, ExportError
from unicuco_plugin.modifiers.toolkit.windows import gather_windows

__all__ = [
    "agree",
    "check_alone",
    "in_step",
    "is_distributed",
    "is_first",
    "out_of_step",
    "save_in_step",
    "wait",
    "whole_windows",
]

_Value = TypeVar("_Value")
# The rank that loads and writes in the toolkit, too.
_FIRST = 0
_HANDLER = "on_sequential_epoch_end"
# Where passes keep what they have summed over calibration text.
_SUMS = ("_num_samples", "_hessians", "_row_scalars")


def is_distributed() -> bool:
    """Whether there are several, or one that was started as one of them."""
    return dist.is_available() and dist.is_initialized()


def check_alone() -> None:
    """Refuse to export from several processes at once.

    Raises:
        ExportError: If there are.
    """
    if is_distributed():
        raise ExportError(
            "prune works in one process, of which each would write the whole checkpoint: under torchrun call "
            "llmcompressor.oneshot with the recipe, and model.save_pretrained"
        )


def is_first() -> bool:
    """Whether this process writes what only one may write; one that is alone does."""
    return not is_distributed() or dist.get_rank() == _FIRST


def wait() -> None:
    """Wait until all ranks are here."""
    if is_distributed():
        dist.barrier()


def agree(value: _Value) -> _Value:
    """What the first rank has, on every rank."""
    if not is_distributed():
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=_FIRST)
    return shared[0]


def whole_windows(batches: Iterable[Mapping[str, Any]]) -> Tensor:
    """The windows of all ranks' calibration data, on every rank, so that all find the same in it.

    Args:
        batches: Those of this rank (:func:`.windows.gather_windows`).

    Returns:
        ``m x L`` token ids on the CPU, those of one rank behind the other's; where all have the same, these.

    Raises:
        CalibrationError: If windows of ranks have different lengths, or a rank has no sample.
    """
    own = gather_windows(batches)
    parts = _gather(own) if is_distributed() else [own]
    if len(parts) == 1:
        return own
    if all(torch.equal(part, parts[0]) for part in parts[1:]):
        logger.warning(
            f"SparsityProfileModifier: all {len(parts)} ranks calibrate on the same {len(own)} samples; llm-compressor "
            "divides no dataset that all of them are given: give each rank its own part, unless the recipe has a pass "
            "that needs the whole text (SparseGPT, Wanda)"
        )
        return own
    lengths = {part.shape[1] for part in parts}
    if len(lengths) > 1:
        raise CalibrationError(f"calibration windows of all ranks must have one length, got {sorted(lengths)}")
    return torch.cat(parts)


def _check_same_text(engine: Modifier, batches: Iterable[Mapping[str, Any]]) -> None:
    found = _gather(hashlib.sha256(gather_windows(batches).numpy().tobytes()).hexdigest())
    if len(set(found)) > 1:
        raise CalibrationError(
            f"{type(engine).__name__} sums nothing over {len(found)} ranks: give each the whole calibration text, in a "
            "DataLoader, or take levels; a part alone would decide"
        )


def in_step(
    modifiers: Sequence[Modifier], alone: tuple[type[Modifier], ...], batches: Iterable[Mapping[str, Any]] | None
) -> None:
    """Have ranks wait for each other around what modifiers do to weights.

    Args:
        modifiers: Those that may change some.
        alone: Kinds that sum nothing over ranks: what the first rank makes of its text is everybody's.
        batches: The toolkit's calibration data.

    Raises:
        CalibrationError: If there is one of these kinds, and ranks have different text.
    """
    if not is_distributed():
        return
    for modifier in modifiers:
        if isinstance(modifier, alone) and batches is not None:
            _check_same_text(modifier, batches)
        handle = getattr(modifier, _HANDLER)

        @wraps(handle)
        def together(*args: Any, _own: Any = modifier, _handle: Any = handle, **kwargs: Any) -> Any:  # noqa: ANN401
            wait()
            if isinstance(_own, alone) and not is_first():
                for sums in _SUMS:
                    getattr(_own, sums, {}).clear()
            result = _handle(*args, **kwargs)
            wait()
            return result

        vars(modifier)[_HANDLER] = together  # modifiers have fields alone, and each runs in a pipeline of its own


def out_of_step(modifiers: Iterable[Modifier]) -> None:
    """Take back what :func:`in_step` did; calling it again does nothing."""
    for modifier in modifiers:
        vars(modifier).pop(_HANDLER, None)


def save_in_step(model: Any) -> None:  # noqa: ANN401 - save_pretrained is replaced on it
    """Make every later save of a model one that all ranks leave together: when the files are there, or one has failed.

    A rank on which nothing went wrong raises an ``ExportError`` then.
    """
    if not is_distributed():
        return
    modify_save_pretrained(model)
    save, reference = model.save_pretrained, weakref.ref(model)

    @wraps(save)
    def save_pretrained(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        given = signature(save, follow_wrapped=False).bind(*args, **kwargs).arguments
        if given.get("save_compressed", True):
            live: Any = reference()
            format = given.get("quantization_format")
            ModelCompressor.from_pretrained_model(live, format).compress_model(live, skip_compressed=True)
            _keep_parameters(live)
        failed: Exception | None = None
        try:
            save(*args, **kwargs)
        except Exception as error:
            failed = error
        found = _gather(None if failed is None else f"{type(failed).__name__}: {failed}")
        if failed is not None:
            raise failed
        wrong = next((f"rank {rank} could not save it: {said}" for rank, said in enumerate(found) if said), "")
        if wrong:
            raise ExportError(wrong)

    save_pretrained._overridden = True  # type: ignore[attr-defined]
    model.save_pretrained = save_pretrained


def _keep_parameters(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module._parameters, OffloadCache):
            kept = module._parameters.offloaded_values
            for name, value in list(kept.items()):
                if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                    kept[name] = nn.Parameter(value, requires_grad=False)


def _gather(value: _Value) -> list[_Value]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
