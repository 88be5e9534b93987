"""What attentions and MLPs are made of: head groups and neurons that can go one by one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.sublayers import sublayer_names
from unicuco_plugin.models.families.family import HALVES, Half, Kind
from unicuco_plugin.models.tensors.storage import count_parameters

__all__ = ["Parts", "find_parts", "leaving_blocks", "linear_names", "spread"]

_INSTEAD = "; take the space depth or sublayer"


@dataclass(frozen=True)
class Parts:
    """The parts of one module.

    Part ``i`` owns the inputs ``[i * width, (i + 1) * width)`` of the module's output projection.

    Attributes:
        name: Full module name of the attention or MLP.
        kind: ``"attention"``: parts are key-value head groups; ``"mlp"``: parts are neurons.
        count: How many parts there are.
        width: Inputs of the output projection for each part: query heads of a group times head size, or 1.
        head_dim: Size of a head; 1 for an MLP.
        output: Full name of the output projection.
        params: Parameters that go with one part; an output projection's own bias is not among them.
        rows: Name of each of the module's other linears -> outputs of it that one part owns.
    """

    name: str
    kind: Kind
    count: int
    width: int
    head_dim: int
    output: str
    params: int
    rows: Mapping[str, int]

    @property
    def projection(self) -> str:
        """The output projection's own name, within the module."""
        return self.output.rpartition(".")[2]


def spread(indices: Iterable[int], width: int) -> Tensor:
    """Rows or columns of parts that own ``width`` each, in the parts' order."""
    return (torch.tensor(tuple(indices), dtype=torch.long)[:, None] * width + torch.arange(width)).flatten()


def linear_names(module: nn.Module, half: Half) -> tuple[str, ...]:
    """What the linears of a module should be called, the output projection last, told by that and by a missing gate."""
    names = next((names for names in half.linears if hasattr(module, names[-1])), half.linears[0])
    gateless = len(names) == 3 and hasattr(module, names[1]) and not hasattr(module, names[0])
    return names[1:] if gateless else names


def find_parts(decoder: Decoder) -> dict[str, Parts]:
    """Find the parts of every attention and MLP, block after block, attention first.

    In a model of several kinds of blocks, modules of a class that has no parts stay whole and are not listed: linear
    attention beside attention, experts beside MLPs.

    Raises:
        UnsupportedModelError: If no attention is made of separate linears for queries, keys, values and output, or no
            MLP of such for (gate,) up and down; or a module has parameters that parts share in a way not known, where
            others of its class have parts.
    """
    found: dict[str, Parts] = {}
    refused: dict[str, UnsupportedModelError] = {}
    for index in range(len(decoder.blocks)):
        for half, names in decoder.halves(index).items():
            for name in names:
                try:
                    split = _attention if half == "attention" else _mlp
                    found[name] = split(name, decoder.model.get_submodule(name), decoder.family.half(half))
                except UnsupportedModelError as error:
                    refused[name] = error
    kinds = {type(decoder.model.get_submodule(name)) for name in found}
    for half in HALVES:
        if all(part.kind != half for part in found.values()):
            sublayer_names(decoder)  # which says it better, where there is no such module at all
            raise next(reason for name, reason in refused.items() if name in _all_names(decoder, half))
    for name, reason in refused.items():
        if type(decoder.model.get_submodule(name)) in kinds:
            raise reason
    return found


def _all_names(decoder: Decoder, half: Kind) -> set[str]:
    return {name for index in range(len(decoder.blocks)) for name in decoder.halves(index)[half]}


def leaving_blocks(decoder: Decoder, parts: Mapping[str, Parts]) -> dict[str, tuple[str, str]]:
    """Blocks of which nothing is left without their attention and their MLP -> the names of these two."""
    found = {}
    for index, block in enumerate(decoder.block_names):
        names = decoder.sublayers(index)
        if names.keys() == {"attention", "mlp"} and parts.keys() >= set(names.values()):
            found[block] = (names["attention"], names["mlp"])
    return found


def _attention(name: str, module: nn.Module, half: Half) -> Parts:
    names = linear_names(module, half)
    query, key, value, output = _linears(name, module, names)
    *inputs, last = names
    head_dim = getattr(module, "head_dim", None)
    if not isinstance(head_dim, int) or key.out_features % head_dim:
        raise UnsupportedModelError(
            f"{name}: head_dim must divide {key.out_features} key outputs, got {head_dim}{_INSTEAD}"
        )
    groups = key.out_features // head_dim
    if value.out_features != key.out_features or query.out_features % key.out_features:
        raise UnsupportedModelError(f"{name}: its query, key and value heads do not form groups{_INSTEAD}")
    # Queries may come with as many gates beside them (Qwen3-Next), head by head.
    if output.in_features % groups or query.out_features % output.in_features:
        raise UnsupportedModelError(
            f"{name}: {last} has {output.in_features} inputs, expected {query.out_features}{_INSTEAD}"
        )
    for inner, parameter in module.named_parameters():
        # Norms of queries and keys are shared by all heads; one over all heads together would mix groups.
        if inner.rpartition(".")[0] not in names and tuple(parameter.shape) != (head_dim,):
            raise UnsupportedModelError(f"{name}: cannot be split into head groups, since {inner} spans them{_INSTEAD}")
    params = sum(count_parameters(linear) for linear in (query, key, value)) + output.weight.numel()
    rows = dict(zip(inputs, (query.out_features // groups, head_dim, head_dim), strict=True))
    width = output.in_features // groups
    return Parts(name, "attention", groups, width, head_dim, f"{name}.{last}", params // groups, rows)


def _mlp(name: str, module: nn.Module, half: Half) -> Parts:
    names = linear_names(module, half)
    *inputs, down = _linears(name, module, names)
    if {linear.out_features for linear in inputs} != {down.in_features}:
        raise UnsupportedModelError(
            f"{name}: {', '.join(names[:-1])} and {names[-1]} disagree on the number of neurons{_INSTEAD}"
        )
    for inner, parameter in module.named_parameters():
        # A number or two of an activation are shared by all neurons.
        if inner.rpartition(".")[0] not in names and parameter.numel() > 1:
            raise UnsupportedModelError(f"{name}: cannot be split into neurons, since {inner} spans them{_INSTEAD}")
    params = sum(count_parameters(linear) for linear in inputs) + down.weight.numel()
    rows, neurons = dict.fromkeys(names[:-1], 1), down.in_features
    return Parts(name, "mlp", neurons, 1, 1, f"{name}.{names[-1]}", params // neurons, rows)


def _linears(name: str, module: nn.Module, expected: tuple[str, ...]) -> list[nn.Linear]:
    children = dict(module.named_children())
    for child in expected:
        if not isinstance(children.get(child), nn.Linear):
            raise UnsupportedModelError(
                f"{name}: {type(module).__name__} has no linear {child}, which splitting it into parts needs; fused "
                f"projections and experts are not supported{_INSTEAD}"
            )
    return [linear for child in expected if isinstance(linear := children[child], nn.Linear)]
