"""Linears that a server packs into one, found by running a model that has no weights.

Linears of one module that are handed the very same tensor can be one product of matrices, and servers make one of them:
queries, keys and values; gate and up; the two compressed inputs of latent attention. So a unit is the linears of one
module that read the same input. Which those are is seen, not guessed from names: the model is built on the meta device
and run on two tokens, and each linear notes what it is handed. All experts of a block are one unit, because a server
keeps them in one tensor. A linear that shares its input with none is alone, and so is one that another family's file
holds packed already (Phi-3).

A few modules hand one tensor to more linears than vLLM packs. Those are listed by the whole set of names
(``families/served.py``); what is not listed is packed whole, which is never wrong for whoever makes a checkpoint.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from unicuco_plugin.errors import UnsupportedModelError, clip
from unicuco_plugin.models.blocks.mixtures import EXPERT_LINEARS, EXPERT_OUTPUT, find_fused
from unicuco_plugin.models.checkpoints.loadability import build_sketch
from unicuco_plugin.models.families.served import PACKED
from unicuco_plugin.models.sketch import run_sketch

__all__ = ["FusedUnit", "expert_linears", "fused_units"]

# Models whose units are remembered: a dense one and what is made of it, a few times over.
_MOST = 8
_EXPERT = re.compile(r"(.*experts)\.\d+\.")


_known: "OrderedDict[tuple[type, str], tuple[FusedUnit, ...]]" = OrderedDict()


@dataclass(frozen=True)
class FusedUnit:
    """Linears that must be stored in one way, because a server keeps them as one.

    Attributes:
        name: The linear's full name where there is one; else the module's, with the linears' own names joined by ``+``;
            for experts the name of the module that holds them.
        linears: Their full names, in the model's order; experts as llm-compressor takes them apart.
    """

    name: str
    linears: tuple[str, ...]


def fused_units(model: PreTrainedModel) -> tuple[FusedUnit, ...]:
    """Group every linear of a model, head and experts included, by what a server packs.

    Found once for a class and configuration: an export asks several times, of the model and of what it has written.

    Args:
        model: With weights or without; it is neither run nor changed.

    Returns:
        Units in the order of their first linears; each linear is in one of them.

    Raises:
        UnsupportedModelError: If the family cannot be run without weights.
    """
    key = type(model), model.config.to_json_string(use_diff=False)
    if key not in _known:
        _known[key] = _find_units(build_sketch(type(model), model.config).eval())
        while len(_known) > _MOST:
            _known.popitem(last=False)
    return _known[key]


def _find_units(sketch: PreTrainedModel) -> tuple[FusedUnit, ...]:
    stacks = find_fused(sketch)
    names = [name for name, module in sketch.named_modules() if isinstance(module, nn.Linear)]
    inputs = _trace(sketch)
    groups: dict[object, list[str]] = {}
    for name in names:
        parent, expert = name.rpartition(".")[0], _EXPERT.match(name)
        # A linear whose weight its module uses without calling it (Mamba's) was handed nothing.
        key = expert[1] if expert else (parent, inputs.get(name, name))
        groups.setdefault(key, []).append(name)
    units = [
        unit
        for key, members in groups.items()
        for unit in ([FusedUnit(key, tuple(members))] if isinstance(key, str) else _split(members))
    ]
    units += [FusedUnit(name, tuple(expert_linears(name, stack))) for name, stack in stacks.items()]
    places = {name: place for place, (name, _) in enumerate(sketch.named_modules())}
    return tuple(sorted(units, key=lambda unit: places.get(unit.linears[0], places.get(unit.name, 0))))


def _split(members: list[str]) -> Iterator[FusedUnit]:
    """Make units of linears that read one tensor."""
    parent = members[0].rpartition(".")[0]
    leaves = {name.rpartition(".")[2]: name for name in members}
    packs = PACKED.get(frozenset(leaves), (frozenset(leaves),))
    for leaf, name in leaves.items():
        pack = next((pack for pack in packs if leaf in pack), frozenset({leaf}))
        together = [other for other in leaves if other in pack]
        if leaf != together[0]:
            continue
        joined = f"{parent}.{'+'.join(together)}" if len(together) > 1 else name
        yield FusedUnit(joined.removeprefix("."), tuple(leaves[other] for other in together))


def expert_linears(name: str, stack: nn.Module) -> Iterator[str]:
    """What llm-compressor calls the linears of experts that their family holds in tensors of three dimensions."""
    fields = dict(stack.named_parameters(recurse=False))
    leaves = [leaf for field in fields for leaf in EXPERT_LINEARS.get(field, ())]
    for expert in range(fields[EXPERT_OUTPUT].shape[0]):
        yield from (f"{name}.{expert}.{leaf}" for leaf in leaves)


def _trace(sketch: PreTrainedModel) -> dict[str, int]:
    """Which tensor each linear is handed, as a number; run without weights, experts left out."""
    seen: dict[str, int] = {}
    alive: list[object] = []  # a number is a tensor's only while the tensor lives

    def note(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        alive.append(given)
        seen.setdefault(name, id(given))

    for name, module in sketch.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(partial(note, name), with_kwargs=True)
    try:
        run_sketch(sketch, use_cache=False)
    except Exception as error:  # whatever a family does with numbers that are not there
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnsupportedModelError(
            f"{type(sketch).__name__}: cannot be run without weights, so it is not seen which of its linears a server "
            f"packs: {clip(reason, 120)}; take another space than precision"
        ) from error
    return seen
