"""What is asked before a weight is read: may the output be written, and could there be an export at all."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.pruning.sparsegpt.sgpt_base import SparsityModifierBase
from torch import nn

from unicuco_plugin.models.exportable import check_exportable
from unicuco_plugin.models.loading import load_config
from unicuco_plugin.models.output_folder import check_output
from unicuco_plugin.models.tensors.storage import kept_tensors
from unicuco_plugin.modifiers.carriers.structured_options import StructuredOptions, find_beside
from unicuco_plugin.modifiers.recipe import is_text
from unicuco_plugin.modifiers.recipes.quantised_experts import check_expert_groups, check_quantised_experts
from unicuco_plugin.modifiers.sources.packing import config_groups, packed_schemes
from unicuco_plugin.modifiers.sources.source_fields import find_inputs, largest_share
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.pruning import check_config, removed_parts
from unicuco_plugin.traits import cutting, silencing, zeroing

__all__ = ["ask_first", "least_bytes"]


def ask_first(
    modifiers: Sequence[Modifier],
    profiles: Sequence[SparsityProfileModifier],
    recipe: object,
    model: str | Path | nn.Module,
    output: Path,
    *,
    overwrite: bool,
    hub: Mapping[str, Any],
) -> None:
    """Refuse a run that could not end well.

    Args:
        modifiers: All of the recipe.
        profiles: Ours among them; kept parts that lie beside the recipe are found.
        recipe: As it was given: a file's name says where it lies.
        model: A folder, a name on the hub, or a model in memory.
        output: The folder to be.
        overwrite: Whether an older checkpoint there may be replaced.
        hub: ``revision`` and ``trust_remote_code``.

    Raises:
        ExportError: If the output may not be written.
        RecipeError, ProfileError, RequestError, StrategyError: If the recipe or a request cannot be carried out.
        ModelMismatchError, UnsupportedModelError: If the model has another structure, or could not be exported.
    """
    name = str(model) if isinstance(model, str | Path) else str(getattr(model, "name_or_path", ""))
    file = Path(recipe) if isinstance(recipe, str | Path) and not is_text(recipe) else None
    inputs = [path for modifier in profiles for path in find_inputs(vars(modifier))]
    source = Path(name) if Path(name).is_dir() else None
    check_output(output, overwrite=overwrite, source=source, inputs=[*inputs, file])
    for modifier in profiles:
        if file is not None:
            modifier.structured = find_beside(modifier.structured, file.parent)
        modifier.check_recipe(list(modifiers))
    config = load_config(name, **hub) if isinstance(model, str | Path) else model.config
    strategies = [strategy for modifier in profiles for strategy in modifier.resolve()]
    for strategy in strategies:
        check_config(config, strategy.model)
    kind: Any = None if isinstance(model, str | Path) else type(model)
    options: dict[str, Any] = {"kind": kind, "trust_remote_code": hub["trust_remote_code"]}
    share = max((found for modifier in profiles for found in _shares(modifier)), default=None)
    spaces = dict.fromkeys(space for modifier in profiles for space in modifier.spaces)
    for space in spaces or (None,):
        # Parts that a strategy removes whole need no bias; which others do is known when they are chosen.
        changed = space is not None and (cutting([space]) or (silencing([space]) and profiles[0].structured))
        format = (profiles[0].structured or StructuredOptions()).format if changed else None
        format = None if format == "auto" else format
        decoder = check_exportable(config, space, share=share, format=format, compensate=False, **options)
        for strategy in strategies:
            if strategy.space == space and strategy.traits.whole:
                removed_parts(decoder, strategy)
            if strategy.space == space and strategy.traits.stores:
                groups = config_groups(packed_schemes(decoder.model, strategy))
                check_expert_groups(decoder.model, list(groups.values()), (), "the strategy", gone=strategy.shares)
    check_quantised_experts(decoder.model, modifiers)


def _shares(modifier: SparsityProfileModifier) -> Iterator[float]:
    """The shares of weights that are to be zeroed, as far as they are known before the model is."""
    yield from (strategy.sparsity for strategy in modifier.resolve() if strategy.traits.zeroes)
    if modifier.late is not None and zeroing(modifier.late.spaces):
        given = (modifier.request or {}).get("sparsity"), getattr(modifier.evopress, "sparsity", None)
        yield from (share for share in given if share is not None)


def least_bytes(modifiers: Sequence[Modifier], model: nn.Module) -> int:
    """Bytes that the checkpoint will have at least, as far as is known before the run; 0 if a modifier may quantise."""
    known = (SparsityProfileModifier, SparsityModifierBase)
    if not all(isinstance(modifier, known) for modifier in modifiers):
        return 0
    profiles = [modifier for modifier in modifiers if isinstance(modifier, SparsityProfileModifier)]
    with kept_tensors():
        dense = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    # Embeddings and the head stay, whatever is removed of the blocks.
    late = [1.0 - largest_share(vars(modifier)) for modifier in profiles if modifier.late is not None]
    found = [strategy.bytes for modifier in profiles for strategy in modifier.resolve()]
    return min([*found, *(int(left * dense) for left in late)], default=dense)
