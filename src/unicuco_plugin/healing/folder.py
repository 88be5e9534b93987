"""The folder of a healed checkpoint: everything as it came but weights, and what is now said of these."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from unicuco_plugin.errors import ExportError, UnicucoError, UnsupportedModelError, listed
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.files.received import DOCUMENT, parse_json, read_bytes, read_text
from unicuco_plugin.models.checkpoints.checkpoint import check_checkpoint
from unicuco_plugin.models.checkpoints.generation import shipped_generation
from unicuco_plugin.models.checkpoints.verdict import check_verdict
from unicuco_plugin.ownership import MARKER

__all__ = ["carried_files", "weight_bytes", "write_folder"]

# What holds weights, or where they are.
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf")
_CARD, _STRATEGY, _RECORD = "README.md", "strategy.json", "healing.json"
_LARGEST = 2**28


def carried_files(checkpoint: Path) -> list[str]:
    """Names of the files of a checkpoint that a healed one keeps.

    Raises:
        UnsupportedModelError: If one is a link, which may lead anywhere, or larger than any such file.
    """
    paths = sorted(path for path in checkpoint.iterdir() if path.name != MARKER and not path.name.endswith(_WEIGHTS))
    links = [path.name for path in paths if path.is_symlink()]
    if links:
        raise UnsupportedModelError(
            f"{checkpoint}: {listed(links)} must be files of its own, got links; copy the folder with cp -rL"
        )
    large = next((path.name for path in paths if path.is_file() and path.stat().st_size > _LARGEST), None)
    if large is not None:
        raise UnsupportedModelError(
            f"{checkpoint}: {large} must have at most {_LARGEST:,} bytes; it is no model's: move it"
        )
    return [path.name for path in paths if path.is_file()]


def weight_bytes(checkpoint: Path) -> int:
    """Bytes of the files of a checkpoint that hold its weights."""
    return sum(path.stat().st_size for path in checkpoint.iterdir() if path.name.endswith(_WEIGHTS))


def write_folder(
    stage: Path,
    model: Any,  # noqa: ANN401 - a Transformers model
    checkpoint: Path,
    names: list[str],
    record: Mapping[str, Any],
) -> str:
    """Write a healed model in the form that its checkpoint has, and let Transformers judge it.

    Args:
        stage: Empty.
        model: As it is loaded from the checkpoint, with other weights.
        checkpoint: Where it comes from.
        names: What is kept of it.
        record: What was done, as JSON data, with ``text``, a sentence for the card, and ``title``, of a card where the
            checkpoint has none.

    Returns:
        Why it was not run; empty where it was.

    Raises:
        ExportError: If it cannot be written, or is not the model in memory.
    """
    try:
        with shipped_generation(model, stage):
            model.save_pretrained(stage)
        for name in names:
            (stage / name).write_bytes(read_bytes(checkpoint / name, largest=_LARGEST, follow=False))
        _say_in_card(stage, record["text"], record["title"])
        _forget_divergence(stage)
        (stage / _RECORD).write_text(json_text(dict(record), indent=2) + "\n", encoding="utf8")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, UnicucoError):
            raise
        raise ExportError(f"{checkpoint}: could not be written anew: {error}") from error
    check_checkpoint(stage, model)
    return check_verdict(stage, model)


def _say_in_card(stage: Path, text: str, title: str) -> None:
    card = stage / _CARD
    before = read_text(card) if card.exists() else f"# {title}\n"
    card.write_text(f"{before.rstrip()}\n\n## Healing\n\n{text}\n", encoding="utf8")


def _forget_divergence(stage: Path) -> None:
    """The strategy's divergence was that of the weights before."""
    path = stage / _STRATEGY
    if not path.exists():
        return
    data = parse_json(read_text(path, largest=DOCUMENT))
    for strategy in data if isinstance(data, list) else [data]:
        if isinstance(strategy, dict):
            strategy["divergence"] = None
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
