"""Configurations of quantised checkpoints as they stand in files, and small units under them."""

from unicuco_plugin.serving.layers import Linear, Unit
from unicuco_plugin.serving.layout import Layout
from unicuco_plugin.serving.quantization import parse_quantization

__all__ = ["alone", "attention", "experts", "found", "integers", "layout_of", "quantised"]


def integers(bits=4, group=32, *, symmetric=True, **fields):
    strategy = "group" if group else "channel"
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "group_size": group} | fields


def quantised(*groups, ignore=("lm_head",), layout="pack-quantized", **fields):
    """A ``quantization_config`` of (targets, weights[, more]) groups."""
    made = {
        f"group_{place}": {"targets": targets, "weights": weights, **(more[0] if more else {})}
        for place, (targets, weights, *more) in enumerate(groups)
    }
    return {
        "quant_method": "compressed-tensors", "format": layout, "config_groups": made, "ignore": list(ignore), **fields,
    }  # fmt: skip


def attention(block=0, rows=(64, 32, 32), columns=64):
    parent = f"model.layers.{block}.self_attn"
    leaves = ("q_proj", "k_proj", "v_proj")
    linears = tuple(Linear(f"{parent}.{leaf}", size, columns) for leaf, size in zip(leaves, rows, strict=True))
    return Unit(f"{parent}.{'+'.join(leaves)}", linears)


def alone(name, rows=64, columns=64, kind="linear"):
    return Unit(name, (Linear(name, rows, columns),), kind)


def experts(block=0, count=2):
    parent = f"model.layers.{block}.mlp.experts"
    linears = [
        Linear(f"{parent}.{number}.{leaf}", 64, 64)
        for number in range(count)
        for leaf in ("gate_proj", "up_proj", "down_proj")
    ]
    return Unit(parent, tuple(linears), "experts")


def layout_of(units, *groups, **fields):
    return Layout(parse_quantization(quantised(*groups, **fields)), tuple(units))


def found(rules, layout):
    return [finding for rule in rules for finding in rule(layout)]
