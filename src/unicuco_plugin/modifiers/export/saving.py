"""A model written by the toolkit, and everything that is asked of the folder before it is called a checkpoint."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcompressor.recipe import Recipe
from safetensors import SafetensorError

from unicuco_plugin.errors import ExportError, UnicucoError
from unicuco_plugin.models.checkpoints.checkpoint import check_checkpoint, read_tensors
from unicuco_plugin.models.checkpoints.generation import shipped_generation
from unicuco_plugin.models.checkpoints.loadability import is_passed_over
from unicuco_plugin.models.checkpoints.verdict import check_verdict
from unicuco_plugin.models.loading import Tokenizer
from unicuco_plugin.models.tensors.storage import is_streamed
from unicuco_plugin.modifiers.export.served import check_served

__all__ = ["Saved", "save_checkpoint"]

# Files of a model that may be larger than memory: one is put together there before it is written.
_SHARD = "2GB"
_HEAD = (
    "holds the dense model's multi-token-prediction head as it was: loaders without a use for it skip it; what "
    "it drafts was learned for the dense model, so fewer of its tokens may be accepted"
)


@dataclass(frozen=True)
class Saved:
    """What was written.

    Attributes:
        bytes: Of all weight files.
        loaded_bytes: Of the tensors that the model's class loads; a draft head beside it is not among them.
        served: Why vLLM does not load it, or on which device it lacks a kernel; empty where neither is so, and where
            nothing is quantised.
        notes: What the user should know of it; ``served`` is among them.
    """

    bytes: int
    loaded_bytes: int
    served: str
    notes: tuple[str, ...]


def save_checkpoint(model: Any, folder: Path, tokenizer: Tokenizer | None, recipe: Recipe) -> Saved:  # noqa: ANN401
    """Write a model, its tokenizer and its recipe, and let Transformers judge what was written.

    Args:
        model: As the toolkit left it.
        folder: Empty.
        tokenizer: What lies beside the model; None leaves it out.
        recipe: The one that was run.

    Raises:
        ExportError: If it cannot be saved, is not the model in memory, or is one that vLLM would take for another.
    """
    try:
        with warnings.catch_warnings(), shipped_generation(model, folder) as generation:
            # The toolkit turns every model into an offloaded one for its save.
            warnings.filterwarnings("ignore", message="Attempting to save a model with offloaded modules")
            shards = {"max_shard_size": _SHARD} if is_streamed(model) else {}
            model.save_pretrained(folder, save_compressed=True, **shards)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    except (RuntimeError, ValueError, TypeError, OSError, SafetensorError) as error:
        if isinstance(error, UnicucoError):
            raise
        raise ExportError(f"the model could not be saved: {error}") from error
    check_checkpoint(folder, model)
    if not (folder / "config.json").is_file():
        raise ExportError("the toolkit wrote no config.json")
    unread = check_verdict(folder, model)
    served = check_served(folder)
    # Whatever the toolkit has made of it and of a recipe beside the model.
    recipe.yaml(file_path=str(folder / "recipe.yaml"))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    beside = [tensor for name, tensor in read_tensors(folder).items() if is_passed_over(model, name)]
    notes = (generation, _HEAD if beside else "", unread, served)
    loaded = size - sum(t.numel() * t.itemsize for t in beside)
    return Saved(size, loaded, served, tuple(note for note in notes if note))
