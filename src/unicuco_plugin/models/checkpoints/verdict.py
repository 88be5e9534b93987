"""Transformers' verdict on a checkpoint just written: loaded as its user will, run, and compared with memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from unicuco_plugin.errors import ExportError, UnsupportedModelError, clip, listed
from unicuco_plugin.models.checkpoints.checkpoint import read_tensors
from unicuco_plugin.models.checkpoints.loadability import (
    build_sketch,
    find_unfit,
    has_own_code,
    is_compact,
    list_unfit,
    quiet_loading,
)
from unicuco_plugin.models.placement import Placement, place_model
from unicuco_plugin.models.tensors.memory import free_memory
from unicuco_plugin.models.tensors.storage import compute_device, is_streamed, kept_tensors, read_all, read_named

__all__ = ["check_loading", "check_verdict"]

# Tokens that both models read, and that the loaded one goes on to write.
_PROMPT, _WRITTEN = 8, 8
# Largest part of the logits, mean over the vocabulary removed, that noise may change: the median over positions, so
# that one token which a router sends to another expert is not a fault. The same kernels give the same bits; experts
# split into linears, and a cache, sum in another order. In tiny models that made 0 to 1e-6 in float32, 1e-2 in
# bfloat16, and 4e-3 where activations are rounded to eight bits, which turns the last bit of a sum into a step. Another
# block, norm or position makes 0.1 and more.
_NOISE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.float16: 2e-2, torch.bfloat16: 5e-2}
_QUANTISED = 0.1
# Memory for a second copy, as a multiple of its files: weights, and what a forward pass of a few tokens takes.
_COPY = 1.2
_AGAIN = "no file was kept; report it to unicuco-plugin with the model's name"


def check_loading(folder: Path, model: PreTrainedModel) -> None:
    """Refuse a checkpoint of which Transformers would miss tensors, or not know some; no weight is read.

    Args:
        folder: A checkpoint, just saved.
        model: The model it was saved from.

    Raises:
        ExportError: If its class, built from its configuration on the meta device, does not load its tensors by the
            class's own patterns, or code that the configuration names is not there.
    """
    with _one_line("Transformers cannot load it"):
        kind, config = _saved(folder, model)
        unfit = find_unfit(kind, config, read_tensors(folder))
    _refuse(unfit)
    _check_code(folder, model)


def check_verdict(folder: Path, model: PreTrainedModel) -> str:
    """Load a checkpoint as its user will, and refuse one that is not the model in memory.

    First without weights, on the meta device, from the files' headers: no tensor may be missing or unexpected by the
    class's own patterns. Then really: tensors equal bit for bit, logits of a few tokens equal but for rounding, and
    eight tokens written with the cache as without; block by block from its files where memory has no room beside the
    model, unless it is quantised. Code in the folder is never run: models with
    code of their own, and compact ones, are loaded by the class in memory.

    Args:
        folder: A checkpoint, just saved.
        model: The model it was saved from, in the form it was saved in; run, and then as it was.

    Returns:
        Why it was not run; empty where it was.

    Raises:
        ExportError: If the checkpoint cannot be loaded, does not fit, or computes something else.
    """
    check_loading(folder, model)
    place = _place(folder, model)
    if place is None:
        return "too little memory to load it beside the model: names and shapes were compared, nothing was run"
    with _one_line("Transformers cannot load it"), quiet_loading(), place.loading("auto") as placed:
        loader: Any = type(model) if _loads_itself(model) else AutoModelForCausalLM
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, **placed}
        loaded, report = loader.from_pretrained(folder, **options, output_loading_info=True)
        loaded = place.put(loaded, "auto", placed).eval()
    _refuse(list_unfit(report))
    _compare_tensors(loaded, model)
    with _one_line("it does not run"), torch.no_grad():
        _compare_runs(loaded, model)
    return ""


def _loads_itself(model: PreTrainedModel) -> bool:
    """Whether the class in memory loads the checkpoint, rather than the one that its configuration names."""
    return has_own_code(model) or is_compact(model)


def _saved(folder: Path, model: PreTrainedModel) -> tuple[Any, PreTrainedConfig]:
    """Class and configuration of a checkpoint."""
    config = type(model.config).from_pretrained(folder, local_files_only=True)
    return type(model) if _loads_itself(model) else MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config


def _refuse(unfit: list[str]) -> None:
    if unfit:
        told = listed(unfit, 2, between="; ", rest="; and {} more")
        raise ExportError(
            f"the checkpoint is refused by Transformers, which would load another model: {told}: {_AGAIN}"
        )


def _check_code(folder: Path, model: PreTrainedModel) -> None:
    """Refuse a checkpoint whose configuration names files that are not there; those of other repositories may be."""
    for name, reference in (getattr(model.config, "auto_map", None) or {}).items():
        for place in reference if isinstance(reference, list | tuple) else (reference,):
            if not isinstance(place, str) or "--" in place:
                continue
            file = f"{place.partition('.')[0]}.py"
            if not (folder / file).is_file():
                raise ExportError(
                    f"the checkpoint needs {clip(file)} for its {clip(name)}, which llm-compressor did not copy: give "
                    "the model as a folder that holds it"
                )


def _compare_tensors(loaded: PreTrainedModel, model: PreTrainedModel) -> None:
    """Compare what has one name in both bit for bit; experts that the toolkit has split have others, and are run."""
    with kept_tensors():
        have = loaded.state_dict().keys()
    for name, tensor in read_all(model):
        if name not in have or tensor.is_meta:
            continue
        other = read_named(loaded, name)
        if other.is_meta:
            continue
        if other.shape != tensor.shape or not _equal(other, tensor.to(other.device)):
            raise ExportError(f"the checkpoint's {clip(name, 120, middle=True)} is not the one in memory: {_AGAIN}")


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype:  # kept in another precision by the family's own rules
        other = other.to(one.dtype)
    if torch.equal(one, other):
        return True
    return one.is_floating_point() and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _compare_runs(loaded: PreTrainedModel, model: PreTrainedModel) -> None:
    text = loaded.config.get_text_config(decoder=True)
    room = getattr(text, "max_position_embeddings", None) or _PROMPT + _WRITTEN
    rows = loaded.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(rows, (1, min(room, _PROMPT + _WRITTEN)), generator=generator)
    noise = _NOISE.get(loaded.dtype, _NOISE[torch.bfloat16])
    if getattr(loaded.config, "quantization_config", None) is not None:
        noise = _QUANTISED
    with _still(model):
        expected = _logits(model, ids)
    found = _difference(_logits(loaded, ids), expected)
    if not found <= noise:
        raise ExportError(
            f"the checkpoint computes something else than the model in memory: {found:.1%} of its logits differ, where "
            f"rounding makes {noise:.2%}: {_AGAIN}"
        )
    if not loaded.can_generate() or room < _PROMPT + _WRITTEN:
        return
    loaded.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=_WRITTEN, min_new_tokens=_WRITTEN, use_cache=True, pad_token_id=0
    )
    prompt = ids[:, :_PROMPT].to(loaded.device)
    written = loaded.generate(
        prompt, attention_mask=torch.ones_like(prompt), output_logits=True, return_dict_in_generate=True
    )
    cached = torch.stack(written.logits, dim=1).float().cpu()
    # Without the cache, on the same tokens: what is compared then does not hang on a tie of two logits.
    found = _difference(cached, _logits(loaded, written.sequences[:, :-1])[:, _PROMPT - 1 :])
    if not found <= noise:
        raise ExportError(
            f"the checkpoint writes other text with Transformers' cache than without: {found:.1%} of its logits "
            f"differ, where rounding makes {noise:.2%}: this family's cache does not go with what was removed; ask for "
            "another space, such as sparsity"
        )


def _logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    output: Any = model(input_ids=ids.to(compute_device(model)), use_cache=False)
    logits: Tensor = output.logits.float().cpu()
    return logits


def _difference(one: Tensor, other: Tensor) -> float:
    """Median over positions of ``|z - z'| / |z'|``, ``z`` the logits less their mean; what both lack is no difference.

    Infinite where only one of the two is finite.
    """
    if not bool(torch.isfinite(other).all()):
        return 0.0 if not bool(torch.isfinite(one).all()) else float("inf")
    one, other = (z - z.mean(-1, keepdim=True) for z in (one, other))
    size = other.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    return float(((one - other).norm(dim=-1) / size).median().nan_to_num(float("inf")))


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, module by module."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _place(folder: Path, model: PreTrainedModel) -> Placement | None:
    """Where a second copy has room: beside the model, on the CPU, or in its files."""
    device, host = compute_device(model), torch.device("cpu")
    need = _COPY * sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    for place in dict.fromkeys((device, host)):
        if need < free_memory(place) and not is_streamed(model):
            return Placement(str(place))
    kind, config = _saved(folder, model)
    if getattr(config, "quantization_config", None) is not None:
        return None
    try:
        return place_model(build_sketch(kind, config), model.dtype, device, "disk")
    except UnsupportedModelError:  # pruned by a recipe of others
        return None


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        # Transformers and the model's own code raise errors of many kinds here.
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"the checkpoint is no use: {what}: {clip(reason, 140)}: {_AGAIN}") from error
