"""Head groups, neurons and modules silenced in their full shape: loads everywhere, and is no smaller."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.decoder import Decoder, find_decoder
from unicuco_plugin.models.kept_parts import KeptParts
from unicuco_plugin.models.parts import Parts, find_parts
from unicuco_plugin.models.plain_sizes import BIAS_FIELDS, set_fields
from unicuco_plugin.models.snapshot import Snapshot

__all__ = ["check_room", "zero_parts"]


def check_room(decoder: Decoder, parts: KeptParts) -> frozenset[str]:
    """Find the configuration fields that give the outputs of pruned modules their biases.

    Returns:
        Fields to set to True; none where there are no biases, or the linears have them already.

    Raises:
        UnsupportedModelError: If the family's own configuration has no such field for a module.
    """
    found = find_parts(decoder)
    fields = set()
    for name in parts.biases:
        field = BIAS_FIELDS[found[name].kind]
        if getattr(decoder.model.get_submodule(found[name].output), "bias", None) is not None:
            continue
        if not isinstance(vars(decoder.config).get(field), bool):
            raise UnsupportedModelError(
                f"{name}: {decoder.config.model_type} has no {field} that stock tools would read a bias for: export "
                "with format compact, or without bias compensation"
            )
        fields.add(field)
    return frozenset(fields)


@torch.no_grad()
def zero_parts(model: PreTrainedModel, parts: KeptParts) -> frozenset[str]:
    """Zero everything that does not stay, and add the biases; shapes stay as they are.

    Args:
        model: A dense causal language model, on any device; changed in place.
        parts: What stays.

    Returns:
        The configuration fields that changed: those that give linears biases.

    Raises:
        StrategyError: If ``parts`` is not for this model.
        UnsupportedModelError: If its modules cannot be split into parts, or have no room for a bias. After any error
            the model is as it was.
    """
    decoder = find_decoder(model)
    parts.check(decoder)
    found, fields = find_parts(decoder), check_room(decoder, parts)
    snapshot = Snapshot(model)
    try:
        set_fields(decoder, dict.fromkeys(fields, True))
    except BaseException:
        snapshot.restore()
        raise
    for name, kept in parts.kept.items():
        _zero_module(model.get_submodule(name), found[name], kept)
    for name, bias in parts.biases.items():
        own = model.get_submodule(found[name].output).get_parameter("bias")
        own.add_(bias.to(own))
    return fields


def _zero_module(module: nn.Module, part: Parts, kept: tuple[int, ...]) -> None:
    output = module.get_submodule(part.output.rpartition(".")[2])
    columns = _gone(part, kept, part.width)
    output.get_parameter("weight")[:, columns] = 0
    bias = dict(output.named_parameters()).get("bias")
    if not kept and bias is not None:
        bias.zero_()
    widths = {"q_proj": part.width, "k_proj": part.head_dim, "v_proj": part.head_dim, "gate_proj": 1, "up_proj": 1}
    for child, linear in module.named_children():
        if child in widths:
            for parameter in linear.parameters():
                parameter[_gone(part, kept, widths[child])] = 0


def _gone(part: Parts, kept: tuple[int, ...], width: int) -> Tensor:
    """Mask over the rows or columns of parts that own ``width`` each."""
    gone = torch.ones(part.count, dtype=torch.bool)
    gone[list(kept)] = False
    return gone.repeat_interleave(width)
