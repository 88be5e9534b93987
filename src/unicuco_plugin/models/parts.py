"""What attentions and MLPs are made of: head groups and neurons that can go one by one."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.decoder import Decoder
from unicuco_plugin.models.sublayers import sublayer_names

__all__ = ["Parts", "find_parts"]

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
# An MLP without a gate has neurons all the same.
_GATED = ("gate_proj", "up_proj", "down_proj")
_MLP = ("up_proj", "down_proj")


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
    """

    name: str
    kind: Literal["attention", "mlp"]
    count: int
    width: int
    head_dim: int
    output: str
    params: int


def find_parts(decoder: Decoder) -> dict[str, Parts]:
    """Find the parts of every attention and MLP, block after block, attention first.

    Raises:
        UnsupportedModelError: If a module is not made of separate linears for queries, keys, values and output, or
            for (gate,) up and down; or has parameters that parts share in a way not known.
    """
    found = {}
    for pair in zip(*sublayer_names(decoder), strict=True):
        for name, read in zip(pair, (_attention, _mlp), strict=True):
            found[name] = read(name, decoder.model.get_submodule(name))
    return found


def _attention(name: str, module: nn.Module) -> Parts:
    query, key, value, output = _linears(name, module, _ATTENTION)
    head_dim = getattr(module, "head_dim", None)
    if not isinstance(head_dim, int) or key.out_features % head_dim:
        raise UnsupportedModelError(f"{name}: head_dim must divide {key.out_features} key outputs, got {head_dim}")
    groups = key.out_features // head_dim
    if value.out_features != key.out_features or query.out_features % key.out_features:
        raise UnsupportedModelError(f"{name}: its query, key and value heads do not form groups")
    if output.in_features != query.out_features:
        raise UnsupportedModelError(f"{name}: o_proj has {output.in_features} inputs, expected {query.out_features}")
    for inner, parameter in module.named_parameters():
        # Norms of queries and keys are shared by all heads; one over all heads together would mix groups.
        if inner.rpartition(".")[0] not in _ATTENTION and tuple(parameter.shape) != (head_dim,):
            raise UnsupportedModelError(f"{name}: cannot be split into head groups, since {inner} spans them")
    params = sum(p.numel() for linear in (query, key, value) for p in linear.parameters()) + output.weight.numel()
    width = query.out_features // groups
    return Parts(name, "attention", groups, width, head_dim, f"{name}.o_proj", params // groups)


def _mlp(name: str, module: nn.Module) -> Parts:
    children = dict(module.named_children())
    expected = _MLP if "up_proj" in children and "gate_proj" not in children else _GATED
    *inputs, down = _linears(name, module, expected)
    if {linear.out_features for linear in inputs} != {down.in_features}:
        raise UnsupportedModelError(f"{name}: {', '.join(expected)} disagree on the number of neurons")
    for inner, parameter in module.named_parameters():
        # A number or two of an activation are shared by all neurons.
        if inner.rpartition(".")[0] not in expected and parameter.numel() > 1:
            raise UnsupportedModelError(f"{name}: cannot be split into neurons, since {inner} spans them")
    params = sum(p.numel() for linear in inputs for p in linear.parameters()) + down.weight.numel()
    return Parts(name, "mlp", down.in_features, 1, 1, f"{name}.down_proj", params // down.in_features)


def _linears(name: str, module: nn.Module, expected: tuple[str, ...]) -> list[nn.Linear]:
    children = dict(module.named_children())
    for child in expected:
        if not isinstance(children.get(child), nn.Linear):
            raise UnsupportedModelError(
                f"{name}: {type(module).__name__} has no linear {child}, which splitting it into parts needs; fused "
                "projections and experts are not supported: take the space depth or sublayer"
            )
    return [linear for child in expected if isinstance(linear := children[child], nn.Linear)]
