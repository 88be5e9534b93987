"""A checkpoint on disk: its configuration made to agree with the model in memory, and both compared."""

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from unicuco_plugin.errors import ExportError, listed
from unicuco_plugin.models.blocks.fingerprint import config_fingerprint
from unicuco_plugin.models.checkpoints.loadability import is_passed_over
from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = ["check_checkpoint", "read_shapes", "read_tensors", "rewrite_config", "write_config_fields"]

# Bytes before a safetensors header: its length, little-endian.
_LENGTH = 8
# Fields of ``config.json`` that a save adds to the configuration.
_SAVED = ("quantization_config", "transformers_version")
# How many configuration fields a message names.
_NAMED = 3
# As safetensors spells them; what it holds beside these is packed bits, of which the shape alone counts here.
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def write_config_fields(folder: Path, model: PreTrainedModel, fields: Iterable[str]) -> None:
    """Set fields of ``config.json`` to what the live configuration says.

    A field goes under the spelling that the family's file has: GPT-2's ``num_hidden_layers`` is ``n_layer`` there.

    Args:
        folder: A checkpoint, just saved.
        model: The model it was saved from.
        fields: Names in the live configuration.

    Raises:
        ExportError: If the file cannot be read or written.
    """
    path = folder / "config.json"
    live = model.config.to_dict()
    try:
        written = json.loads(path.read_text(encoding="utf8"))
        for field in fields:
            own = model.config.attribute_map.get(field, field)
            # Sizes that differ between blocks cannot be asked of the configuration itself.
            value = live[own] if own in live else getattr(model.config, field, None)
            for spelling in {own, *({field} & written.keys())}:
                written[spelling] = value
        path.write_text(json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf8")
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(f"{path}: the configuration could not be corrected: {error}") from error


def rewrite_config(folder: Path, model: PreTrainedModel) -> None:
    """Write ``config.json`` anew from the live configuration, which is of another family than the file's.

    What only a save knows stays: how weights are quantised, and with which Transformers they were saved.

    Args:
        folder: A checkpoint, just saved.
        model: The model it was saved from.

    Raises:
        ExportError: If the file cannot be read or written.
    """
    path = folder / "config.json"
    try:
        written = json.loads(path.read_text(encoding="utf8"))
        kept = {field: written[field] for field in _SAVED if field in written}
        own = model.config.to_dict() | kept | {"architectures": [type(model).__name__]}
        own.pop("_name_or_path", None)  # where the dense model lay says nothing to others
        path.write_text(json.dumps(own, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf8")
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(f"{path}: the configuration could not be written: {error}") from error


def check_checkpoint(folder: Path, model: PreTrainedModel) -> None:
    """Read a saved checkpoint's configuration and tensor headers back and compare them with the live model.

    Args:
        folder: A checkpoint of this model, just saved.
        model: The model in memory, in the form it was saved in (quantised ones stay compressed after a save).

    Raises:
        ExportError: If a structural field, a tensor's name or a tensor's shape differs, or a file cannot be read.
    """
    try:
        config = type(model.config).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"{folder}: the saved configuration cannot be read: {error}") from error
    live = model.config.get_text_config(decoder=True).num_hidden_layers
    saved = config.get_text_config(decoder=True).num_hidden_layers
    if saved != live:
        raise ExportError(f"{folder}: config.json says {saved} blocks, the model has {live}")
    if config_fingerprint(config) != config_fingerprint(model.config):
        names = ", ".join(_config_differences(config, model.config)) or "a structural field"
        raise ExportError(f"{folder}: config.json builds another model than the one in memory: {names} differs")
    differences = _tensor_differences(read_shapes(folder), model)
    if differences:
        told = listed(differences, between="; ", rest="; and {} more")
        raise ExportError(f"{folder}: the saved tensors are not those in memory: {told}")


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Map the tensors of a checkpoint to their shapes, from the safetensors headers alone.

    Raises:
        ExportError: If there is no readable ``*.safetensors``, or a file is truncated.
    """
    return {name: shape for name, (shape, _) in _read_headers(folder).items()}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint on the meta device, from the safetensors headers alone.

    Raises:
        ExportError: See :func:`read_shapes`.
    """
    return {
        name: torch.empty(shape, dtype=_DTYPES.get(dtype, torch.uint8), device="meta")
        for name, (shape, dtype) in _read_headers(folder).items()
    }


def _read_headers(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(_LENGTH))
                header: dict[str, Any] = json.loads(file.read(length))
        except (OSError, ValueError, struct.error) as error:
            raise ExportError(f"{path}: not a readable safetensors file: {error}") from error
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if path.stat().st_size != _LENGTH + length + end:
            raise ExportError(f"{path}: expected {_LENGTH + length + end} bytes, got {path.stat().st_size}")
        found |= {name: (tuple(entry["shape"]), entry["dtype"]) for name, entry in header.items()}
    if not found:
        raise ExportError(f"{folder}: no *.safetensors with a tensor in it")
    return found


def _tensor_differences(saved: dict[str, tuple[int, ...]], model: PreTrainedModel) -> list[str]:
    with kept_tensors():
        state = model.state_dict(keep_vars=True)
    tensors = {}
    groups: dict[int, set[str]] = {}
    for name, tensor in state.items():
        # Shared tensors are written once, under either name.
        groups.setdefault(id(tensor), set()).add(name)
        if groups[id(tensor)] == {name} or name in saved:
            tensors[name] = tensor.detach().to("meta")
    # Some families spell and split their tensors otherwise on disk than in memory.
    expected = {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(model, tensors).items()}
    aliases = [group for group in groups.values() if len(group) > 1]
    found = []
    for name, shape in expected.items():
        if name in saved and saved[name] != shape:
            found.append(f"{name} has shape {saved[name]}, expected {shape}")
        elif name not in saved and not any(name in group and group & saved.keys() for group in aliases):
            found.append(f"{name} is missing")
    known = expected.keys() | {name for group in aliases for name in group}
    more = [name for name in sorted(saved.keys() - known) if not is_passed_over(model, name)]
    return [*found, *(f"{name} is unexpected" for name in more)]


def _config_differences(saved: Any, live: Any) -> list[str]:  # noqa: ANN401 - configurations are untyped
    have, want = saved.to_dict(), live.to_dict()
    ignored = {"dtype", "torch_dtype", "transformers_version", "architectures", "_name_or_path", "quantization_config"}
    return sorted(key for key in want.keys() - ignored if have.get(key) != want[key])[:_NAMED]
