"""What a ``quantization_config`` shows by itself, without a model. Each rule yields what it finds."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from packaging.version import InvalidVersion, Version

from unicuco_plugin.errors import quoted
from unicuco_plugin.serving.finding import Finding
from unicuco_plugin.serving.quantization import Group, Quantization
from unicuco_plugin.serving.schemes import find_scheme, scheme_name

__all__ = ["CONFIG_RULES", "is_odd", "raw_findings", "readable"]

# Widths that do not divide a word of 32 bits, which compressed-tensors packs densely since this release.
_DENSE_SINCE = Version("0.18")
_EVEN = (1, 2, 4, 8, 16)


def _is_attention(group: Group) -> bool:
    """Whether a group rounds the states of attentions, which vLLM leaves to the scheme of the cache."""
    return len(group.targets) == 1 and group.targets[0].endswith("Attention")


def is_odd(group: Group) -> bool:
    """Whether weights are integers of a width that does not divide a word."""
    weights = group.weights
    return weights is not None and weights.type == "int" and weights.num_bits not in _EVEN


def _wrote_sparse_words(quantization: Quantization) -> bool:
    """Whether the release that wrote the file left bits of each word empty where a width does not divide it."""
    try:
        return Version(quantization.version) < _DENSE_SINCE
    except InvalidVersion:
        return False


def raw_findings(data: Mapping[str, Any]) -> Iterator[Finding]:
    """What is asked of the file before compressed-tensors reads it, which mends or refuses it.

    Args:
        data: A ``quantization_config`` as it stands in the file.
    """
    groups = data.get("config_groups")
    for name, group in groups.items() if isinstance(groups, Mapping) else ():
        if isinstance(group, list):
            yield Finding(
                "preset", f"config_groups.{name}",
                "lists targets under a preset's name; vLLM reads no presets there: write the scheme out, as "
                "compressed-tensors does when it saves",
            )  # fmt: skip
        weights = group.get("weights") if isinstance(group, Mapping) else None
        order = weights.get("actorder") if isinstance(weights, Mapping) else None
        if order is True or str(order).lower() in ("group", "dynamic"):
            yield Finding(
                "actorder", f"config_groups.{name}.weights.actorder",
                f"is {quoted(order)}, which vLLM 0.32 no longer loads: quantise again with actorder static (or null)",
            )  # fmt: skip
    sparsity = data.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("targets"):
        yield Finding(
            "sparsity_config", "sparsity_config",
            f"holds targets (format {quoted(sparsity.get('format'))}); vLLM and compressed-tensors gave sparse formats "
            "up: save the model dense and quantise that",
        )  # fmt: skip


def readable(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same without what :func:`raw_findings` has found, for which compressed-tensors would refuse it.

    Args:
        data: A ``quantization_config`` as it stands in the file.
    """
    groups = data.get("config_groups")
    if not isinstance(groups, dict):
        return data
    kept = {}
    for name, group in groups.items():
        if isinstance(group, list):
            continue
        weights = group.get("weights") if isinstance(group, dict) else None
        kept[name] = group | {"weights": weights | {"actorder": None}} if isinstance(weights, dict) else group
    return {**data, "config_groups": kept}


def _schemes(quantization: Quantization) -> Iterator[Finding]:
    for name, group in quantization.config_groups.items():
        where = f"config_groups.{name}"
        if _is_attention(group):
            continue
        if group.weights is None:
            yield Finding("weights", where, "has no weights, which vLLM insists on: leave the group out")
            continue
        layout = quantization.format_of(group)
        if find_scheme(group, layout) is None:
            yield Finding(
                "scheme", where,
                f"vLLM has no scheme for {scheme_name(group)} in the format {quoted(layout)}; quantise to one of "
                "compressed-tensors' presets, such as W4A16, W8A8, FP8_DYNAMIC or NVFP4A16",
            )  # fmt: skip


def _packing(quantization: Quantization) -> Iterator[Finding]:
    if not _wrote_sparse_words(quantization):
        return
    for name, group in quantization.config_groups.items():
        if is_odd(group) and group.weights is not None and quantization.format_of(group) == "pack-quantized":
            yield Finding(
                "packing", f"config_groups.{name}.weights.num_bits",
                f"is {group.weights.num_bits}, packed by compressed-tensors {quantization.version}, which filled no "
                "words; vLLM reads the dense packing of 0.18 and later: quantise again with that",
            )  # fmt: skip


def _cache(quantization: Quantization) -> Iterator[Finding]:
    scheme = quantization.kv_cache_scheme
    if scheme is None:
        return
    known = (scheme.type, scheme.num_bits) == ("float", 8) and scheme.strategy in ("tensor", "attn_head")
    if not (known and scheme.symmetric):
        yield Finding(
            "kv_cache", "kv_cache_scheme",
            f"is {scheme.type} of {scheme.num_bits} bits by {scheme.strategy}; vLLM's cache takes symmetric floats of "
            "8 bits by tensor or by head (kv_cache_scheme of the recipe)",
        )  # fmt: skip


def _transforms(quantization: Quantization) -> Iterator[Finding]:
    if quantization.transform_config:
        yield Finding(
            "transforms", "transform_config",
            "holds rotations, which are not looked into here: vLLM applies Hadamard ones that are not folded in",
            "warning", "note",
        )  # fmt: skip


CONFIG_RULES: tuple[Callable[[Quantization], Iterator[Finding]], ...] = (_schemes, _packing, _cache, _transforms)
