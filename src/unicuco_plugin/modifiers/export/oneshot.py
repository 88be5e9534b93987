"""A recipe run on a model from start to checkpoint: the function behind ``unicuco prune``."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import llmcompressor
import torch
from llmcompressor.core import reset_session
from llmcompressor.modifiers import Modifier
from llmcompressor.recipe import Recipe
from torch import Tensor, nn

from unicuco_plugin.errors import CalibrationError, UnicucoError
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.levels.experts import as_linears
from unicuco_plugin.models.checkpoints.loadability import has_own_code
from unicuco_plugin.models.loading import Tokenizer, load_model, load_tokenizer
from unicuco_plugin.models.placement import Offload
from unicuco_plugin.models.reach import Reach
from unicuco_plugin.models.staging import staged_folder
from unicuco_plugin.models.tensors.finite import check_weights
from unicuco_plugin.models.tensors.storage import kept_tensors
from unicuco_plugin.modifiers.export.asked_first import ask_first, least_bytes
from unicuco_plugin.modifiers.export.card import write_card
from unicuco_plugin.modifiers.export.divergence_note import find_divergence_note
from unicuco_plugin.modifiers.export.result import Export
from unicuco_plugin.modifiers.export.saving import save_checkpoint
from unicuco_plugin.modifiers.recipe import build_recipe, check_pipeline, check_recipe
from unicuco_plugin.modifiers.recipes.own_recipe import check_modifiers
from unicuco_plugin.modifiers.sources.limit_check import as_formed, check_counted, check_limits
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.modifiers.toolkit.failure import explain_failure
from unicuco_plugin.modifiers.toolkit.flat_inputs import flat_inputs
from unicuco_plugin.modifiers.toolkit.log import set_toolkit_verbosity
from unicuco_plugin.modifiers.toolkit.norms import exact_norms
from unicuco_plugin.modifiers.toolkit.ranks import check_alone
from unicuco_plugin.strategy import Strategy

__all__ = ["Calibrate", "prune", "prune_with_recipe"]

# Makes calibration windows from the model that is about to be pruned.
Calibrate: TypeAlias = Callable[[Any, Tokenizer], Tensor]


def prune(
    model: str | Path | nn.Module,
    recipe: str | Path | Modifier | Sequence[Modifier],
    output: str | Path,
    *,
    overwrite: bool = False,
    calibration: Tensor | Calibrate | None = None,
    tokenizer: Tokenizer | None = None,
    pipeline: str = "independent",
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    offload: Offload = "none",
    verbose: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Export:
    """Run a recipe on a model and write a checkpoint that stock tools load.

    The folder holds weights, configuration, generation configuration, tokenizer with its chat template, recipe.yaml
    (which replays without a profile), strategy.json, sparsity.json (planned and achieved zeros of every linear, where
    weights were zeroed) and a model card. It appears complete or not at all.

    Args:
        model: A model folder, a name on the hub, or a model in memory that was loaded from either; changed in place.
        recipe: A YAML recipe (file or text), or modifiers in order.
        output: The folder to write; must not exist unless ``overwrite``.
        overwrite: Replace an older checkpoint there once the new one is complete.
        calibration: A ``windows x length`` tensor of token ids for modifiers that need data, or a function of the
            loaded model and its tokenizer that makes it; None if no modifier needs data.
        tokenizer: The tokenizer to write beside the model; by default the one in the model's own folder.
        pipeline: The toolkit's calibration pipeline. The default gives each modifier the one it needs.
        revision: A branch, tag or commit on the hub.
        trust_remote_code: Whether code in the model's own repository may run.
        dtype: A floating-point dtype, or ``"auto"`` for the checkpoint's own.
        device: Where the model is pruned.
        offload: Where its blocks wait until they are needed (:func:`~unicuco_plugin.models.loading.load_model`).
        verbose: Whether the toolkit's progress messages are shown.
        tell: Told in one line where the model's weights are.

    Returns:
        The finished checkpoint.

    Raises:
        RecipeError: If the recipe is refused, or needs calibration text and gets none.
        ProfileError, RequestError, StrategyError: If its profile, request or strategy is wrong.
        CalibrationError: If there is calibration text and no tokenizer.
        ModelMismatchError: If the strategy was made for another model.
        UnsupportedModelError: If the model cannot be loaded or pruned, or weights are not finite before or afterwards.
        ExportError: If the folder cannot be written, is wrong when read back, or is larger than requested. Nothing is
            left behind then.
    """
    began = time.perf_counter()
    set_toolkit_verbosity(verbose=verbose)
    check_alone()
    output = Path(output)
    name = str(model) if isinstance(model, str | Path) else str(getattr(model, "name_or_path", ""))
    built = _build_recipe(recipe)
    check_pipeline(built.modifiers, pipeline, with_data=calibration is not None)
    profiles = [modifier for modifier in built.modifiers if isinstance(modifier, SparsityProfileModifier)]
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    ask_first(built.modifiers, profiles, recipe, model, output, overwrite=overwrite, hub=hub)
    live = _load(model, name, hub, dtype=dtype, device=device, offload=offload, tell=tell)
    tokenizer = tokenizer or _find_tokenizer(name, hub)
    if calibration is not None and tokenizer is None:
        raise CalibrationError(f"{name}: has no tokenizer, which llm-compressor needs to calibrate")
    check_modifiers(built.modifiers, live)
    for modifier in profiles:
        modifier.check(live)
        check_counted(modifier.resolve())
    with staged_folder(output, overwrite=overwrite, need=least_bytes(built.modifiers, live)) as stage:
        try:
            windows = _windows(calibration, live, tokenizer)
            _run(live, built, tokenizer, windows, pipeline, trust=trust_remote_code or has_own_code(live))
            strategies = tuple(strategy for modifier in profiles for strategy in modifier.resolve())
            params = _count(live)
            saved = save_checkpoint(live, stage, tokenizer, built)
            check_limits(strategies, {"params": params, "bytes": saved.loaded_bytes})
            achieved = next((m.outcome.achieved for m in profiles if m.outcome.achieved is not None), None)
            others = [type(modifier).__name__ for modifier in built.modifiers if modifier not in profiles]
            own = all(modifier.outcome.own_parts for modifier in profiles)
            note = find_divergence_note(
                strategies,
                others,
                next((m.outcome.levels for m in profiles), None),
                own_parts=own,
                corrected=next((m.compensation for m in profiles if m.outcome.changed), None),
            )
            format = next((modifier.outcome.format for modifier in profiles if modifier.outcome.format), "")
            strategies = tuple(as_formed(strategy, format, params, saved.loaded_bytes) for strategy in strategies)
            said = next((modifier.outcome.compensated for modifier in profiles), "")
            words = {"divergence_note": note, "format": format, "own_code": has_own_code(live), "served": saved.served}
            words["compensated"] = said
            _describe(stage, name, strategies, params, words)
            if achieved is not None:
                achieved.write(stage / "sparsity.json")
        finally:
            # After a failure this takes the bypasses off again.
            reset_session()
    seconds = time.perf_counter() - began
    notes = ((said,) if said else ()) + saved.notes
    return Export(output, live, strategies, params, saved.bytes, seconds, achieved, note, format, notes)


prune_with_recipe = prune  # its name before it was public


def _load(model: str | Path | nn.Module, name: str, hub: dict[str, Any], **place: Any) -> Any:  # noqa: ANN401
    """The model in memory, its weights finite."""
    if isinstance(model, str | Path):
        return load_model(name, **hub, **place)
    check_weights(model, name or "the model")
    return model


def _windows(calibration: Tensor | Calibrate | None, live: Any, tokenizer: Tokenizer | None) -> Tensor | None:  # noqa: ANN401
    """Calibration windows, written by the model itself where a function is to ask it: which takes a while."""
    windows = calibration if calibration is None or isinstance(calibration, Tensor) else calibration(live, tokenizer)
    if windows is not None:
        Reach.of(live).check(windows)
    return windows


def _build_recipe(recipe: str | Path | Modifier | Sequence[Modifier]) -> Recipe:
    if isinstance(recipe, str | Path):
        return check_recipe(recipe)
    return build_recipe([recipe] if isinstance(recipe, Modifier) else list(recipe))


def _find_tokenizer(name: str, hub: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer beside the model; a model without one is exported without one."""
    folder = Path(name)
    if folder.is_dir() and not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
        return None
    return load_tokenizer(name, **hub)


def _run(
    model: Any,  # noqa: ANN401 - a Transformers model
    recipe: Recipe,
    tokenizer: Tokenizer | None,
    windows: Tensor | None,
    pipeline: str,
    *,
    trust: bool,
) -> None:
    # Set because the toolkit warns about it otherwise, and sets it itself.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    data = {} if windows is None else _calibration_data(windows)
    try:
        with as_linears(model), exact_norms(model), flat_inputs(model):
            llmcompressor.oneshot(
                model=model,
                recipe=recipe,
                tokenizer=tokenizer,
                pipeline=pipeline,
                trust_remote_code_model=trust,
                **data,
            )
    except UnicucoError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, OSError) as error:
        raise explain_failure(error) from error
    check_weights(model, "the pruned model", made=True)


def _calibration_data(windows: Tensor) -> dict[str, Any]:
    import datasets  # noqa: PLC0415 - slow to import, and depth alone needs none

    ids = windows.tolist()
    data = datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(window) for window in ids]})
    return {
        "dataset": data,
        "num_calibration_samples": len(ids),
        "max_seq_length": windows.shape[1],
        "shuffle_calibration_samples": False,
    }


def _count(model: nn.Module) -> int:
    """Parameters of the model, without the scales that the toolkit hangs onto quantised layers."""
    with kept_tensors():
        own = [
            parameter
            for name, parameter in model.named_parameters()
            if not hasattr(model.get_submodule(name.rpartition(".")[0]), "quantization_scheme")
            or name.endswith((".weight", ".bias"))
        ]
    return sum(parameter.numel() for parameter in own)


def _describe(stage: Path, name: str, strategies: tuple[Strategy, ...], params: int, words: dict[str, Any]) -> None:
    base = name or "a model in memory"
    recipe = (stage / "recipe.yaml").read_text(encoding="utf8")
    (stage / "README.md").write_text(write_card(base, strategies, params, recipe, **words), encoding="utf8")
    if strategies:
        data: Any = [strategy.to_dict() for strategy in strategies]
        text = json_text(data[0] if len(data) == 1 else data, indent=2)
        (stage / "strategy.json").write_text(text + "\n", encoding="utf8")
