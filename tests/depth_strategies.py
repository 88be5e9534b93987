"""Strategies that drop whole blocks of a model, or halves of some, for the tests of everything after the search."""

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.strategy import Strategy

__all__ = ["SUBLAYERS", "sublayer_strategy", "whole_block_strategy"]

SUBLAYERS = {f"model.layers.{name}": 1.0 for name in ("1.self_attn", "1.mlp", "3.self_attn", "4.mlp")}


def whole_block_strategy(model, indices=(1, 3), **changes) -> Strategy:
    """Build a strategy for a model; ``changes`` replace fields of its JSON."""
    names = find_decoder(model).block_names
    return Strategy.from_dict(
        {
            "schema": 1,
            "space": "depth",
            "model": {"name": "tiny", "fingerprint": str(fingerprint(model))},
            "request": {"sparsity": 0.3},
            "sparsity": len(indices) / len(names),
            "params": 1000,
            "bytes": 4000,
            "source": "archive",
            "divergence": {"mean": 0.1, "interval90": [0.05, 0.2], "measured": True},
            "units": {names[index]: 1.0 for index in indices},
        }
        | changes
    )


def sublayer_strategy(model, units=SUBLAYERS, **changes) -> Strategy:
    """The same for attentions and MLPs; of block 1 both."""
    return whole_block_strategy(model, **({"space": "sublayer", "units": units} | changes))
