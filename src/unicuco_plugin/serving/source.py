"""What ``unicuco check`` is given: a checkpoint's folder, its config.json, or a ``quantization_config`` alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicuco_plugin.errors import CheckpointError, clip
from unicuco_plugin.files.received import DOCUMENT, open_regular, parse_json, read_bytes

__all__ = ["Source", "read_source"]

# Where releases of llm-compressor before 0.3 wrote it, which vLLM still reads.
_FIELDS = ("quantization_config", "compression_config")
_GGUF = b"GGUF"


@dataclass(frozen=True)
class Source:
    """What was found.

    Attributes:
        folder: Where weight files may lie; None where a file was given.
        config: The model's configuration; None where there is only the quantisation's.
        quantization: The quantisation's; None where the checkpoint is not quantised.
    """

    folder: Path | None
    config: dict[str, Any] | None
    quantization: dict[str, Any] | None


def read_source(path: Path) -> Source:
    """Read a folder's or a file's configuration.

    Args:
        path: A folder with config.json, such a file, or a JSON file of a ``quantization_config`` alone.

    Raises:
        CheckpointError: If there is none, or it is something else: GGUF, a LoRA adapter, no JSON, a recipe.
    """
    try:
        if path.is_dir():
            return Source(path, *_split(path, _read(_find_config(path))))
        if not path.exists():
            raise CheckpointError(f"{path}: no such file or folder")
    except OSError as error:  # a name too long, a folder that may not be searched
        raise CheckpointError(f"{clip(str(path), 120, middle=True)}: cannot be read: {error.strerror}") from error
    return Source(None, *_split(path, _read(path)))


def _find_config(folder: Path) -> Path:
    config = folder / "config.json"
    if config.is_file():
        return config
    if any(folder.glob("*.gguf")):
        raise CheckpointError(f"{folder}: {_say_gguf()}")
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"{folder}: holds a LoRA adapter, not a model; merge it first")
    if (folder / "params.json").is_file():
        raise CheckpointError(
            f"{folder}: has params.json, Mistral's own format, and no config.json; give it in Transformers' format"
        )
    raise CheckpointError(f"{folder}: has no config.json, so it is no checkpoint")


def _read(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            if file.read(len(_GGUF)) == _GGUF:
                raise CheckpointError(f"{path}: {_say_gguf()}")
        data = parse_json(read_bytes(path, largest=DOCUMENT), infinite=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:  # UnicodeDecodeError among them
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: must be JSON, a model's config.json or its quantization_config: {error}"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: must be a JSON object, got {type(data).__name__}")
    return data


def _split(path: Path, data: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Tell a model's configuration and its quantisation's."""
    text = data.get("text_config")
    for holder in (data, text if isinstance(text, dict) else {}):
        for field in _FIELDS:
            found = holder.get(field)
            if isinstance(found, dict) and found:
                return data, found
            if found is not None and not isinstance(found, dict):
                raise CheckpointError(f"{path}: {field} must be an object, got {type(found).__name__}")
    if "config_groups" in data or "quant_method" in data:
        return None, data
    if "model_type" in data or "architectures" in data:
        return data, None
    raise CheckpointError(
        f"{path}: names neither a model_type nor config_groups; give a checkpoint's folder, its config.json, or its "
        "quantization_config"
    )


def _say_gguf() -> str:
    return "is a GGUF file, of llama.cpp; this command knows checkpoints of compressed-tensors"
