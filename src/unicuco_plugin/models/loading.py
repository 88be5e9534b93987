"""Models, configurations and tokenizers from a folder or the hub, refused early and in one line."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from unicuco_plugin.errors import UnsupportedModelError, clip, listed, quoted
from unicuco_plugin.models.blocks.support import check_config
from unicuco_plugin.models.checkpoints.demo import materialise_smollm2
from unicuco_plugin.models.checkpoints.source import locate, one_line
from unicuco_plugin.models.parts.builders import config_reader, model_builder
from unicuco_plugin.models.placement import Offload, Placement, place_model, place_whole
from unicuco_plugin.models.sketch import sketch_model
from unicuco_plugin.models.tensors.finite import check_weights

__all__ = [
    "Tokenizer",
    "display_name",
    "find_model",
    "load",
    "load_config",
    "load_model",
    "load_tokenizer",
    "materialise_smollm2",
]

# With these a model that cannot be offloaded is loaded as it is.
_OPTIONAL: tuple[Offload, ...] = ("auto", "none")


def display_name(name_or_path: str | Path) -> str:
    """A folder's own name: where it lies on this machine says nothing to others. A hub name stays whole."""
    path = Path(name_or_path).expanduser()
    return path.resolve().name if path.is_dir() else str(name_or_path)


def load_config(
    name_or_path: str | Path, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """Read a model's configuration and refuse what it shows to be unsupported, before any weight is read.

    Args:
        name_or_path: A local folder, for which the network is never used, or a name on the hub.
        revision: A branch, tag or commit on the hub.
        trust_remote_code: Whether code in the model's own repository may run.

    Raises:
        UnsupportedModelError: If there is no such model, or it is quantised, an encoder-decoder, multimodal, or of a
            family whose blocks cannot be dropped.
    """
    config = _read_config(name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    check_config(config, name=str(name_or_path))
    return config


def find_model(name_or_path: str | Path, *, trust_remote_code: bool = False) -> None:
    """Make sure that there is a causal language model of some kind, before anything expensive is done with it.

    Raises:
        UnsupportedModelError: If there is none.
    """
    _read_config(name_or_path, trust_remote_code=trust_remote_code)


def load(
    name_or_path: str | Path, *, dtype: str | torch.dtype = "auto", device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """Load a checkpoint that this package wrote, whether its blocks have one size or many.

    No code in it is run, and no prompt, not even at a terminal, offers to run it: this package has the code for
    compact checkpoints. Weights are read only from safetensors files, never unpickled.

    Args:
        name_or_path: A checkpoint's folder, or its name on the hub.
        dtype: A floating-point dtype such as ``"bfloat16"``, or ``"auto"`` for the checkpoint's own.
        device: Where the model is moved after it is read on the CPU.

    Returns:
        The model in evaluation mode: ``generate``, its cache and ``save_pretrained`` work as for any other.

    Raises:
        UnsupportedModelError: If there is no such model, it needs code of its own, its weights are incomplete, not
            finite or not safetensors, or ``dtype`` is not a floating-point dtype.
    """
    kind = _floating(dtype)
    # False rather than left out: Transformers would ask at a terminal.
    config = _read_config(name_or_path, trust_remote_code=False)
    return _load(name_or_path, config, dtype=kind, device=device, trust_remote_code=False, use_safetensors=True)


def load_model(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    offload: Offload = "none",
    prunable: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> PreTrainedModel:
    """Load a causal language model in evaluation mode.

    Args:
        name_or_path: A local folder, for which the network is never used, or a name on the hub.
        revision: A branch, tag or commit on the hub.
        trust_remote_code: Whether code in the model's own repository may run.
        dtype: A floating-point dtype such as ``"bfloat16"``, or ``"auto"`` for the checkpoint's own.
        device: Where the model computes: such as ``cuda``; ``auto`` spreads its blocks over all accelerators.
        offload: Where blocks wait until they are needed: ``none``, on the device; ``cpu``, in memory; ``disk``, in the
            checkpoint's own files, or copies of what these hold in another form; ``auto`` decides by what is free.
        prunable: Whether it must be one that can be pruned; a quantised checkpoint, for instance, can only be run.
        tell: Told in one line what was decided, where there was something to decide.

    Raises:
        UnsupportedModelError: If there is no such model, it is of no use here (see :func:`load_config`), its weights
            are incomplete or not finite, ``dtype`` is no floating-point dtype, or it cannot be offloaded as asked.
    """
    kind = _floating(dtype)
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    read = load_config if prunable else _read_config
    return _load(name_or_path, read(name_or_path, **hub), dtype=kind, device=device, offload=offload, tell=tell, **hub)


def _floating(dtype: str | torch.dtype) -> str | torch.dtype:
    if not isinstance(dtype, str) or dtype == "auto":
        return dtype
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise UnsupportedModelError(f"dtype must be auto or a floating-point dtype such as bfloat16, got {dtype!r}")
    return kind


def _read_config(name_or_path: str | Path, **hub: Any) -> PreTrainedConfig:  # noqa: ANN401 - the hub's options
    where = locate(name_or_path)
    with one_line(name_or_path, "its configuration"):
        config = config_reader(where, hub).from_pretrained(**where, **hub)
    if not hub.get("trust_remote_code"):
        _refuse_kernels(name_or_path, config)
    return config


def _refuse_kernels(name: str | Path, config: PreTrainedConfig) -> None:
    """Refuse a configuration that names compiled code on the hub, which Transformers would fetch and run."""
    for field in ("attn_implementation", "experts_implementation"):
        given = getattr(config, f"_{field}", None)
        for value in given.values() if isinstance(given, dict) else (given,):
            if isinstance(value, str) and any(mark in value for mark in "/:"):
                raise UnsupportedModelError(
                    f"{name}: its configuration asks for code of others, {field} {quoted(value)}, which is not run; "
                    "remove the field from config.json, or pass --trust-remote-code if you trust its author"
                )


def _load(
    name_or_path: str | Path,
    config: PreTrainedConfig,
    *,
    dtype: str | torch.dtype,
    device: str | torch.device,
    offload: Offload = "none",
    tell: Callable[[str], None] = lambda _: None,
    **options: Any,  # noqa: ANN401 - Transformers'
) -> PreTrainedModel:
    where = locate(name_or_path)
    with one_line(name_or_path, "its weights"):
        kind = model_builder(config)
    placement = Placement(str(device))
    if offload != "none" or str(device) == "auto":
        if getattr(config, "quantization_config", None) is None:
            trust = bool(options.get("trust_remote_code"))
            made = partial(
                sketch_model, config, None if kind is AutoModelForCausalLM else kind, trust_remote_code=trust
            )
            placement = _place(made, _width(config, dtype), device, offload)
        elif offload in _OPTIONAL:
            placement = place_whole(device)
        else:
            raise UnsupportedModelError(
                f"{name_or_path}: --offload {offload} is for models that are not quantised; leave it out"
            )
        if placement.reason:
            tell(placement.reason)
    with one_line(name_or_path, "its weights"), placement.loading(dtype) as placed:
        model, report = kind.from_pretrained(**where, config=config, output_loading_info=True, **options, **placed)
        model = placement.put(model, dtype, placed).eval()
    # Transformers fills what a checkpoint lacks with random numbers and only warns.
    missing = sorted(report["missing_keys"])
    if missing:
        told = listed(missing)
        raise UnsupportedModelError(f"{name_or_path}: {len(missing)} tensors are missing from its weights: {told}")
    check_weights(model, str(name_or_path))
    return model


def _place(
    make_sketch: Callable[[], PreTrainedModel], dtype: torch.dtype, device: str | torch.device, offload: Offload
) -> Placement:
    """Decide where a model is; one that cannot be offloaded is not, where nobody asked for it."""
    try:
        return place_model(make_sketch(), dtype, device, offload)
    except UnsupportedModelError as error:
        if offload not in _OPTIONAL:
            raise
        return place_whole(device, f"cannot be offloaded: {clip(str(error), 200)}")


def _width(config: PreTrainedConfig, dtype: str | torch.dtype) -> torch.dtype:
    """What a model computes in."""
    asked = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    own = getattr(config, "dtype", None) or getattr(config.get_text_config(decoder=True), "dtype", None)
    return asked or own or torch.get_default_dtype()


def load_tokenizer(
    name_or_path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Tokenizer:
    """Load the tokenizer that comes with a model.

    Args:
        name_or_path: A local folder, for which the network is never used, or a name on the hub.
        revision: A branch, tag or commit on the hub.
        trust_remote_code: Whether code in the model's own repository may run.

    Raises:
        UnsupportedModelError: If there is none, or it cannot be read.
    """
    where = locate(name_or_path)
    with one_line(name_or_path, "its tokenizer"):
        return AutoTokenizer.from_pretrained(**where, revision=revision, trust_remote_code=trust_remote_code)
