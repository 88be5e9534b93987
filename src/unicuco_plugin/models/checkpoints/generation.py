"""How a model writes text by default: kept as its author shipped it, where Transformers would not write it again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import cached_file

from unicuco_plugin.errors import clip
from unicuco_plugin.files.received import read_bytes

__all__ = ["shipped_generation"]

_FILE = "generation_config.json"
# Bytes of such a file: the longest have a few thousand.
_LARGEST = 2**22


@contextmanager
def shipped_generation(model: PreTrainedModel, folder: Path) -> Iterator[str]:
    """Let a save inside the ``with`` succeed although the generation configuration contradicts itself.

    Transformers loads such a file (``temperature`` without ``do_sample``) and refuses to save it. The file that came
    with the model is then laid into the checkpoint, byte for byte; without one, what is in memory.

    Args:
        model: The model that is saved; its generation configuration is put back.
        folder: Where it is saved to.

    Yields:
        What to tell the user; empty where Transformers writes the file itself.
    """
    given: Any = getattr(model, "generation_config", None)
    reason = "" if given is None else _find_contradiction(given)
    if not reason:
        yield ""
        return
    model.generation_config = GenerationConfig()
    try:
        yield f"{_FILE} is kept as it was shipped; Transformers loads it and would not write it: {reason}"
    finally:
        model.generation_config = given
    shipped = _find_shipped(model)
    if shipped is None:
        given.to_json_file(folder / _FILE, use_diff=True, keys_to_pop=["compile_config"])
    else:
        (folder / _FILE).write_bytes(shipped)


def _find_contradiction(given: GenerationConfig) -> str:
    try:
        given.validate(strict=True)
    except ValueError as error:
        lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
        return clip(next((line for line in lines if line.startswith("`")), lines[0] if lines else "invalid"), 140)
    return ""


def _find_shipped(model: PreTrainedModel) -> bytes | None:
    """The file that came with the model, in its folder or in the hub's cache; never asked of the network."""
    source = str(getattr(model, "name_or_path", "") or "")
    try:
        if Path(source).is_dir():
            path: str | Path | None = Path(source) / _FILE
        else:
            commit = getattr(model.config, "_commit_hash", None)
            path = cached_file(source, _FILE, local_files_only=True, revision=commit) if source else None
        return None if path is None else read_bytes(Path(path), largest=_LARGEST)
    except (OSError, ValueError):
        return None
