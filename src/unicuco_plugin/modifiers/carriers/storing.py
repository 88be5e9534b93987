"""Schemes of units inside the toolkit's lifecycle: from a level database, or by the recipe's own quantiser."""

from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.offload import update_offload_parameter
from compressed_tensors.quantization import QuantizationMetadata, QuantizationStatus
from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.quantization.quantization.mixin import QuantizationMixin
from loguru import logger
from torch import nn

from unicuco_plugin.errors import ExportError, RecipeError
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.levels.stitch import find_linears
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.tensors.storage import exchange_data, read_kept
from unicuco_plugin.modifiers.carriers.achieved import Keeping
from unicuco_plugin.modifiers.carriers.follower import check_ignored, find_quantiser
from unicuco_plugin.modifiers.sources.packing import config_groups, expert_names, packed_schemes
from unicuco_plugin.schemes import parse_scheme
from unicuco_plugin.strategy import Strategy

__all__ = ["QuantiserHandler", "StoreHandler"]


class StoreHandler(Keeping):
    """Gives every linear the codes, scales and zero points of its scheme, from a database; no text is needed.

    Args:
        model: The model that the toolkit works on.
        fingerprint: Of this model while dense.
        strategy: Of a space that stores weights in fewer bits, already checked to be this model's.
        levels: The database's folder.

    Raises:
        LevelsError: If the database is missing, unfinished or damaged, or lacks a linear or its scheme.
        ModelMismatchError: If it was built from another model.
        StrategyError: If linears that a server packs would differ, or units cover no linears.
        UnsupportedModelError: If the model cannot be quantised.
    """

    def __init__(self, model: nn.Module, fingerprint: str, strategy: Strategy, levels: str | Path) -> None:
        decoder = find_decoder(model)
        database = SchemeLevels.open(levels, fingerprint=fingerprint)
        linears = find_linears(decoder, database)
        self._plan = packed_schemes(model, strategy)
        for name, scheme in self._plan.items():
            database.loss(name, scheme)
        self._model = model
        self._linears = {name: linears[name] for name in self._plan}
        self._dense: dict[str, torch.Tensor] = {}
        self._database = database
        self.levels = database.record.identity

    def start(self, modifiers: list[Modifier], place: int, removed: frozenset[str]) -> None:
        """Nothing yet: no later modifier sees the weights.

        Raises:
            RecipeError: If the strategy stores nothing, and no block goes either.
        """
        if not self._plan and not removed:
            raise RecipeError("the strategy leaves every linear as it is; leave it out of the recipe")

    # Outside of inference mode, where a caller may be: a parameter must not become a tensor that autograd refuses.
    @torch.inference_mode(False)
    @torch.no_grad()
    def finish(self) -> None:
        """Quantise, as the toolkit's own quantisers leave a model before it is saved."""
        # Blocks before them may be gone by now.
        names = {id(module): name for name, module in self._model.named_modules()}
        now = {names[id(linear)]: name for name, linear in self._linears.items()}
        plan = {new: self._plan[old] for new, old in now.items()}
        for group in config_groups(plan, expert_names(self._model)).values():
            wanted = set(group.targets)
            for name in [name for name in now if name in wanted]:  # in one order: ranks do this together
                self._store(now[name], group)
        bits = {scheme: len([own for own in self._plan.values() if own == scheme]) for scheme in self._plan.values()}
        told = ", ".join(f"{count} in {scheme}" for scheme, count in bits.items())
        logger.info(f"SparsityProfileModifier: {len(self._plan)} linears stored from the level database, {told}")

    def _store(self, name: str, group: Any) -> None:  # noqa: ANN401 - a scheme of compressed-tensors
        linear, scheme = self._linears[name], parse_scheme(self._plan[name])
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        found = compressor.decompress(self._database.packed(name, self._plan[name]), as_toolkit(scheme))
        self._dense[name] = read_kept(linear, "weight")
        weight = self._database.decode(name, self._plan[name], self._dense[name].device)
        exchange_data(linear, "weight", weight)
        initialize_module_for_quantization(linear, group)
        for key in ("weight_scale", "weight_zero_point", "weight_global_scale"):
            if key in found and hasattr(linear, key):
                update_offload_parameter(linear, key, found[key])
        linear.quantization_status = QuantizationStatus.FROZEN

    def undo(self) -> None:
        """Put the dense weights back; calling it again does nothing."""
        for name, weight in self._dense.items():
            linear = self._linears[name]
            exchange_data(linear, "weight", weight)
            QuantizationMetadata.clear_quantization(linear)
            vars(linear).pop("quantization_status", None)
        self._dense = {}


class QuantiserHandler(Keeping):
    """Fills ``config_groups`` of the next quantiser of the recipe: one disjoint group for each scheme, explicit names.

    Args:
        model: The model that the toolkit works on.
        strategy: Of a space that stores weights in fewer bits, already checked to be this model's.

    Raises:
        StrategyError: If linears that a server packs would differ, or units cover no linears.
        UnsupportedModelError: If the model cannot be quantised.
    """

    def __init__(self, model: nn.Module, strategy: Strategy) -> None:
        self._model, self._plan = model, packed_schemes(model, strategy)
        self._linears = {name: model.get_submodule(name) for name in self._plan}
        self._filled: tuple[QuantizationMixin, Any] | None = None

    def start(self, modifiers: list[Modifier], place: int, removed: frozenset[str]) -> None:
        """Fill the next quantiser.

        Raises:
            RecipeError: If there is none, it has schemes of its own, its ``ignore`` hits a planned linear, or nothing
                is planned.
        """
        if not self._plan and removed:
            raise RecipeError(
                "the strategy drops blocks and leaves other linears as they are, so that there is nothing to quantise: "
                "give levels, which then writes the blocks that stay"
            )
        if not self._plan:
            raise RecipeError("the strategy leaves every linear as it is; leave it out of the recipe")
        quantiser = find_quantiser(modifiers[place + 1 :])
        check_ignored(quantiser, self._linears)
        self._filled = quantiser, quantiser.config_groups
        quantiser.config_groups = config_groups(self._plan, expert_names(self._model, removed))
        quantiser._resolved_config = None

    def finish(self) -> None:
        """Compare what was made with the plan.

        Raises:
            ExportError: If a linear was not quantised as planned.
        """
        for name, scheme in self._plan.items():
            made = getattr(getattr(self._linears[name], "quantization_scheme", None), "weights", None)
            wanted = as_toolkit(parse_scheme(scheme)).weights
            fields = ("num_bits", "type", "symmetric", "group_size", "strategy")
            if made is None or any(getattr(made, field) != getattr(wanted, field) for field in fields):
                raise ExportError(f"{name}: planned {scheme}, the recipe's quantiser made {made}")

    def undo(self) -> None:
        """Give the quantiser back what it had; calling it again does nothing."""
        if self._filled is not None:
            quantiser, groups = self._filled
            quantiser.config_groups, quantiser._resolved_config = groups, None
            self._filled = None
