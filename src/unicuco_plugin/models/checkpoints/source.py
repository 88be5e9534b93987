"""Where a model comes from, a folder or the hub, and what is refused there before Transformers reads it."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unicuco_plugin.errors import UnsupportedModelError, clip

__all__ = ["locate", "one_line"]

# Files of a model that are read whole into memory, and their most bytes: the largest tokenizers have forty million.
_TEXTS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py")
_LARGEST_TEXT = 2**28


def locate(name_or_path: str | Path) -> dict[str, Any]:
    """Tell a folder, read offline, from a hub name; a path that does not exist is never asked of the hub.

    Returns:
        What Transformers' ``from_pretrained`` is given.

    Raises:
        UnsupportedModelError: If there is no such folder, or it holds no model, or what must not be read.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            if (path / "adapter_config.json").is_file():
                raise UnsupportedModelError(
                    f"{text}: the folder holds a LoRA adapter, not a model; merge it first: peft's "
                    "AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(OTHER), and "
                    "the tokenizer beside it"
                )
            raise UnsupportedModelError(
                f"{text}: the folder has no config.json, so it is not a model; give the folder that Transformers "
                "would load"
            )
        _check_files(path)
        return {"pretrained_model_name_or_path": str(path), "local_files_only": True}
    if path.exists():
        raise UnsupportedModelError(f"{text}: expected a model folder, got a file; give the folder that holds it")
    if isinstance(name_or_path, Path) or text.startswith(("/", ".", "~")) or text.count("/") > 1 or not text:
        raise UnsupportedModelError(
            f"{text}: no such model folder; give one that exists, or a name on the hub such as ORG/NAME"
        )
    return {"pretrained_model_name_or_path": text, "local_files_only": False}


def _check_files(folder: Path) -> None:
    """Refuse a folder in which something would be waited for without end, or read into memory without end."""
    for path in folder.iterdir():
        try:
            found = path.stat()
        except OSError:  # a link to nowhere: whoever needs it says so
            continue
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise UnsupportedModelError(f"{path}: must be a file or a folder, got a pipe, device or socket; remove it")
        if path.suffix in _TEXTS and found.st_size > _LARGEST_TEXT:
            raise UnsupportedModelError(
                f"{path}: must have at most {_LARGEST_TEXT:,} bytes, got {found.st_size:,}; remove what is not the "
                "model's"
            )


@contextmanager
def one_line(name: str | Path, what: str) -> Iterator[None]:
    """Turn what Transformers, the hub and the file formats raise into one line that names the model.

    Raises:
        UnsupportedModelError: For whatever is raised inside the ``with``.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and "trust_remote_code=True" in str(error):
            raise UnsupportedModelError(
                f"{name}: {what} cannot be loaded: it needs code of its own, which is not run; if you trust its "
                "author, pass --trust-remote-code, or load it by Transformers with trust_remote_code=True"
            ) from error
        # Four libraries and the model's own code may raise here, each errors of its own.
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnsupportedModelError(f"{name}: {what} cannot be loaded: {clip(reason, 180)}") from error
