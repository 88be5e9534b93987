"""Whether parts of modules can go: a module that was cut must be the module whose parts were masked, by numbers.

What a module is made of is found by names and shapes (``parts``); they do not show heads that belong together, norms of
single heads, or anything else in a family's code that one part has to do with another.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import UnsupportedModelError, clip
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.sublayers import check_silence
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import Parts, find_parts
from unicuco_plugin.models.parts.reduction import reduced
from unicuco_plugin.models.parts.shrink import has_compact_names, slice_modules
from unicuco_plugin.models.tensors.storage import compute_device

__all__ = ["check_cuts"]

# Largest difference between cut and masked, as a share of the masked output's norm. Rounding gives 1e-6 in float32 and
# 5e-3 in bfloat16; heads that are cut wrong give a tenth and more.
_TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-6}
_TOLERANCE = 2e-2
# Of the neurons of an MLP, the last so many stay; of the head groups, one. A choice.
_NEURONS = 8


@torch.no_grad()
def check_cuts(decoder: Decoder) -> dict[str, Parts]:
    """Find the parts of every attention and MLP, and make sure on a few tokens that they can go one by one.

    Every module is run three times on what enters it in the dense model: with most of its parts masked before the
    output projection, with weights selected (as in training), and with smaller linears (as in a compact checkpoint, for
    which its linears need the usual names).

    Args:
        decoder: The dense model; as it was afterwards, however it ends. Without weights, on the meta device, names and
            shapes alone are looked at.

    Returns:
        Module name -> parts, block after block, attention first.

    Raises:
        UnsupportedModelError: If modules cannot be split into parts, a cut module is another than the masked one, or
            one that goes whole gives more than zeros; the message names the module.
    """
    found = find_parts(decoder)
    device = compute_device(decoder.model)
    if device.type == "meta":  # no weights, no numbers: whether there could be an export is asked again with them
        return found
    check_silence(decoder, list(found))

    def compare(part: Parts, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        _compare(decoder, part, partial(module.forward, *args, **kwargs), output)

    hooks = [
        decoder.model.get_submodule(part.name).register_forward_hook(partial(compare, part), with_kwargs=True)
        for part in found.values()
    ]
    ids = torch.arange(10, device=device).view(2, 5) % decoder.model.get_input_embeddings().num_embeddings
    try:
        decoder.model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _compare(decoder: Decoder, part: Parts, call: Callable[[], Any], output: object) -> None:
    """Hold a module with most of its parts cut against it with those masked; ``call`` runs it on what entered it."""
    # What stands for a module that goes whole returns this.
    usual = isinstance(output, tuple) and len(output) == 2 if part.kind == "attention" else isinstance(output, Tensor)
    if not usual:
        raise UnsupportedModelError(f"{part.name}: returns more than a usual {part.kind}, so it cannot go whole")
    if part.count < 2:
        return
    kept = tuple(range(part.count - (1 if part.kind == "attention" else max(1, part.count // _NEURONS)), part.count))
    parts = KeptParts({part.name: kept})

    def run(changed: AbstractContextManager[None]) -> Tensor:
        with changed:
            found = call()
        states: Tensor = found[0] if isinstance(found, tuple) else found
        return states.float()

    what = "one head group" if part.kind == "attention" else f"{len(kept)} neurons"
    masked = run(_masked(decoder, part, kept))
    ways = [reduced(decoder, parts, [part])]
    if has_compact_names(part):
        ways.append(_sliced(decoder, parts))
    for changed in ways:
        try:
            cut = run(changed)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = clip(" ".join(str(error).split()), 80)
            raise UnsupportedModelError(
                f"{part.name}: its parts belong together: cut to {what} it fails ({reason}); take the space depth or "
                "sublayer"
            ) from error
        off = ((cut - masked).norm() / masked.norm().clamp_min(torch.finfo(torch.float32).tiny)).item()
        if not off <= _TOLERANCES.get(decoder.model.dtype, _TOLERANCE):
            raise UnsupportedModelError(
                f"{part.name}: its parts belong together: cut to {what} its output differs by {off:.1%} from that with "
                "the others masked; take the space depth or sublayer"
            )


@contextmanager
def _masked(decoder: Decoder, part: Parts, kept: tuple[int, ...]) -> Iterator[None]:
    """Let parts that are not kept reach the output projection as zeros."""
    projection = decoder.model.get_submodule(part.output)
    mask = torch.zeros(part.count, part.width)
    mask[list(kept)] = 1.0

    def silence(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * mask.flatten().to(args[0]), *args[1:])

    hook = projection.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _sliced(decoder: Decoder, parts: KeptParts) -> Iterator[None]:
    restore = slice_modules(decoder, parts)
    try:
        yield
    finally:
        restore()
