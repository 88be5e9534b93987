"""Which of vLLM's schemes a group is, and what it is called.

The order of the questions is that of vLLM 0.32, ``compressed_tensors.py::_get_scheme_from_parts``; a group that answers
none of them is one that vLLM refuses to load.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

from unicuco_plugin.serving.quantization import Group

__all__ = ["SCHEMES", "Scheme", "find_scheme", "scheme_name"]

_INT, _FLOAT = "int", "float"
_PACKED, _INTS = "pack-quantized", "int-quantized"
# Formats that say of themselves that states are rounded (``utils.py::is_activation_quantization_format``).
_WITH_STATES = ("naive-quantized", _INTS, "float-quantized", "nvfp4-pack-quantized")
_ROWS, _BLOCKS = ("channel", "group"), ("tensor", "channel", "block")
_DENSE = 16
# vLLM packs two to eight bits into words of 32.
_WIDTHS = range(2, 9)


@dataclass(frozen=True)
class Scheme:
    """One of vLLM's ways to keep a linear.

    Attributes:
        name: Ours, and a key of the kernels' table.
        own: vLLM's class.
        capability: Least compute capability of a CUDA device, times ten.
    """

    name: str
    own: str
    capability: int


SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("wna16", "CompressedTensorsWNA16", 75),
        Scheme("wna8", "CompressedTensorsWNA8Int", 75),
        Scheme("wna4", "CompressedTensorsWNA4Int", 75),
        Scheme("wna8o8", "CompressedTensorsWNA8O8Int", 70),
        Scheme("w4a8_int", "CompressedTensorsW4A8Int", 10),
        Scheme("w4a8_fp8", "CompressedTensorsW4A8Fp8", 90),
        Scheme("int8", "CompressedTensorsW8A8Int8", 75),
        # Below 8.9 the weights alone are in eight bits.
        Scheme("fp8", "CompressedTensorsW8A8Fp8", 75),
        Scheme("fp8a16", "CompressedTensorsW8A16Fp8", 75),
        Scheme("nvfp4", "CompressedTensorsW4A4Fp4", 75),
        Scheme("mxfp4", "CompressedTensorsW4A4Mxfp4", 80),
        Scheme("w4a8_mxfp4", "CompressedTensorsW4A8Mxfp4", 80),
        Scheme("mxfp8", "CompressedTensorsW8A8Mxfp8", 75),
    )
}


@dataclass(frozen=True)
class _Parts:
    """A group taken apart, as vLLM's questions want it."""

    weights: QuantizationArgs
    inputs: QuantizationArgs | None
    outputs: QuantizationArgs | None
    layout: str

    @property
    def integer(self) -> bool:
        return self.weights.type == _INT and not self.weights.dynamic

    def wide(self, bits: int, kind: str) -> bool:
        """Whether states have so many bits, and weights and states are of this kind."""
        return self.inputs is not None and self.inputs.num_bits == bits and self.inputs.type == kind

    @property
    def moving(self) -> bool:
        """Whether states are rounded by scales found while it runs, one for each token or group."""
        inputs = self.inputs
        return inputs is not None and bool(inputs.dynamic) and inputs.strategy in ("token", "group")


def _is_nvfp4(args: QuantizationArgs | None) -> bool:
    return args is not None and (args.type, args.num_bits, args.strategy, args.group_size, args.symmetric) == (
        _FLOAT, 4, "tensor_group", 16, True,
    )  # fmt: skip


def _is_microscaled(args: QuantizationArgs, bits: int) -> bool:
    return (args.type, args.num_bits, args.strategy, args.group_size, args.symmetric) == (
        _FLOAT, bits, "group", 32, True,
    )  # fmt: skip


def _is_wna8o8(parts: _Parts) -> bool:
    ends = (parts.inputs, parts.outputs)
    still = all(
        args is not None and (args.type, args.num_bits, args.strategy) == (_INT, 8, "tensor") and not args.dynamic
        for args in ends
    )
    return still and parts.integer and parts.weights.strategy in _ROWS and parts.layout in (_PACKED, _INTS)


def _is_wna(parts: _Parts, bits: int) -> bool:
    packed = parts.integer and parts.weights.strategy in _ROWS and parts.layout == _PACKED
    return packed and parts.wide(bits, _INT) and parts.moving and bool(parts.inputs and parts.inputs.symmetric)


def _is_wna16(parts: _Parts) -> bool:
    weights = parts.weights
    return (
        parts.inputs is None
        and weights.strategy in _ROWS
        and not weights.dynamic
        and parts.layout == _PACKED
        and weights.num_bits in _WIDTHS
    )


def _is_int8(parts: _Parts) -> bool:
    weights, inputs = parts.weights, parts.inputs
    if inputs is None or (weights.num_bits, inputs.num_bits) != (8, 8) or weights.dynamic or not weights.symmetric:
        return False
    by_token = inputs.strategy == "token" and bool(inputs.dynamic)
    by_tensor = inputs.strategy == "tensor" and not inputs.dynamic
    return weights.strategy in ("tensor", "channel") and (by_token or by_tensor)


def _is_fp8_weight(parts: _Parts) -> bool:
    weights = parts.weights
    return weights.type == _FLOAT and weights.symmetric and not weights.dynamic and weights.strategy in _BLOCKS


def _is_fp8(parts: _Parts) -> bool:
    inputs = parts.inputs
    if inputs is None or inputs.type != _FLOAT or not _is_fp8_weight(parts):
        return False
    return bool(inputs.dynamic) or (inputs.symmetric and inputs.strategy == "tensor")


def _is_w4a8_int(parts: _Parts) -> bool:
    weights = parts.weights
    four = parts.integer and weights.num_bits == 4 and weights.symmetric and weights.strategy in _ROWS
    return (
        four and parts.wide(8, _INT) and parts.moving and parts.inputs is not None and parts.inputs.strategy == "token"
    )


def _is_w4a8_fp8(parts: _Parts) -> bool:
    weights, inputs = parts.weights, parts.inputs
    four = parts.integer and weights.num_bits == 4 and weights.symmetric and weights.strategy == "group"
    return four and parts.wide(8, _FLOAT) and parts.moving and inputs is not None and inputs.strategy == "token"


def _with_states(question: Callable[[_Parts], bool]) -> Callable[[_Parts], bool]:
    return lambda parts: parts.layout in _WITH_STATES and question(parts)


# Asked in this order; the last six only of layouts with rounded states.
_QUESTIONS: tuple[tuple[str, Callable[[_Parts], bool]], ...] = (
    ("nvfp4", lambda parts: _is_nvfp4(parts.weights) and (parts.inputs is None or _is_nvfp4(parts.inputs))),
    ("w4a8_mxfp4", lambda parts: _is_microscaled(parts.weights, 4) and parts.wide(8, _FLOAT) and parts.moving),
    ("mxfp4", lambda parts: _is_microscaled(parts.weights, 4)),
    ("mxfp8", lambda parts: _is_microscaled(parts.weights, 8) and str(parts.weights.scale_dtype) == "torch.uint8"),
    ("w4a8_fp8", _is_w4a8_fp8),
    ("wna8o8", _is_wna8o8),
    ("wna8", lambda parts: _is_wna(parts, 8)),
    ("wna4", lambda parts: _is_wna(parts, 4)),
    ("wna16", _is_wna16),
    ("fp8", _with_states(_is_fp8)),
    ("fp8a16", _with_states(_is_fp8_weight)),
    ("int8", _with_states(_is_int8)),
    ("w4a8_int", _with_states(_is_w4a8_int)),
)


def find_scheme(group: Group, layout: str) -> Scheme | None:
    """The scheme of a group whose weights are quantised, or None where vLLM has none for it.

    Args:
        group: Any with weights.
        layout: The format that holds for it.
    """
    weights = group.weights
    if weights is None:
        return None
    parts = _Parts(weights, group.input_activations, group.output_activations, layout)
    return next((SCHEMES[name] for name, question in _QUESTIONS if question(parts)), None)


def _essence(*args: QuantizationArgs | None) -> str:
    """What makes two schemes one."""
    fields = {"num_bits", "type", "symmetric", "strategy", "group_size", "block_structure", "dynamic"}
    return repr([given and given.model_dump(include=fields) for given in args])


_PRESETS = {
    _essence(preset["weights"], preset.get("input_activations")): name
    for name, preset in PRESET_SCHEMES.items()
    if preset.get("weights") is not None and preset["weights"].type == _FLOAT
}


def scheme_name(group: Group) -> str:
    """What a group does to a linear.

    Returns:
        As ``W4A16:g64:asym``; for floats the name of compressed-tensors' preset, such as ``FP8_DYNAMIC``; ``16 bits``
        where weights are left alone.
    """
    weights, inputs = group.weights, group.input_activations
    if weights is None:
        return "16 bits"
    if weights.type == _FLOAT and (preset := _PRESETS.get(_essence(weights, inputs))):
        return preset
    states = _DENSE if inputs is None else inputs.num_bits
    kind = "FP" if weights.type == _FLOAT else ""
    text = f"W{kind}{weights.num_bits}A{kind if inputs is not None and inputs.type == _FLOAT else ''}{states}"
    if weights.strategy in ("group", "tensor_group"):
        text += f":g{weights.group_size}"
    elif weights.strategy == "block":
        text += f":{'x'.join(map(str, weights.block_structure or ()))}"
    else:
        text += f":{weights.strategy}"
    return text + ("" if weights.symmetric else ":asym")
