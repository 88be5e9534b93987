"""Units that go whole inside the toolkit's lifecycle: blocks are bypassed while it runs and dropped when it ends."""

import weakref
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from compressed_tensors.offload import as_single_threaded
from llmcompressor.modifiers import Modifier
from llmcompressor.transformers.compression.compressed_tensors_utils import modify_save_pretrained
from loguru import logger
from torch import nn

from unicuco_plugin.models.blocks.bypass import bypass_blocks
from unicuco_plugin.models.blocks.config import shrink_fields
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.experts import fuse_experts
from unicuco_plugin.models.blocks.mixtures import find_split
from unicuco_plugin.models.blocks.sublayers import zero_outputs
from unicuco_plugin.models.blocks.surgery import drop_blocks
from unicuco_plugin.models.checkpoints.checkpoint import check_checkpoint, write_config_fields
from unicuco_plugin.models.checkpoints.generation import shipped_generation
from unicuco_plugin.models.checkpoints.verdict import check_loading
from unicuco_plugin.modifiers.carriers.achieved import Achieved
from unicuco_plugin.modifiers.carriers.compensating import Folding
from unicuco_plugin.modifiers.toolkit.ranks import is_first, save_in_step
from unicuco_plugin.pruning import removed_parts
from unicuco_plugin.strategy import Strategy

__all__ = ["RemovalHandler", "correct_later_saves", "correct_saving"]


class RemovalHandler:
    """Applies what one strategy removes whole to one model: of the spaces ``depth``, ``sublayer`` and ``compound``.

    The blocks must still be there when the toolkit restores the norms that it swaps for calibration, by name; so they
    are bypassed first and dropped after that. A sub-layer whose block keeps its other half stays, with an output
    projection of zeros.

    Args:
        model: The model that the toolkit works on.
        strategy: A strategy of those spaces, already checked to be this model's.
        folding: Corrects for what goes; nothing by default.

    Raises:
        StrategyError: If its units are not parts of the model.
        UnsupportedModelError: If the model cannot be pruned.
    """

    achieved: Achieved | None = None

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy,
        folding: Folding | None = None,
    ) -> None:
        self._model, self.folding, self._halves = model, folding or Folding(), strategy.traits.halves
        self._indices, self._silent = removed_parts(find_decoder(model), strategy)
        self._names = frozenset(strategy.shares)
        self._wake: Callable[[], None] = lambda: None
        self._restore: Callable[[], None] = lambda: None

    @property
    def removed(self) -> frozenset[str]:
        """The units that go, by full module name."""
        return self._names

    def start(self, modifiers: list[Modifier], place: int, removed: frozenset[str]) -> None:
        """Correct, silence and bypass: later modifiers calibrate on what is left.

        Raises:
            UnsupportedModelError: If a sub-layer cannot be silenced, or a correction not be folded in.
            RecipeError, CalibrationError: If a correction lacks text.
        """
        decoder = find_decoder(self._model)
        self.folding.start(decoder, self._names, halves=self._halves)
        self._wake = zero_outputs(decoder, self._silent)
        self._restore = bypass_blocks(decoder, self._indices)

    def finish(self) -> None:
        """Drop the blocks for good, and make every later save of the model right.

        Raises:
            UnsupportedModelError: If the configuration cannot describe what is left; the model then has all its blocks.
        """
        self._restore()
        if self._indices:
            decoder = find_decoder(self._model)
            kept = [index for index in range(len(decoder.blocks)) if index not in self._indices]
            fields = frozenset(shrink_fields(decoder.config, kept))
            before = dict(self._model.named_modules())
            drop_blocks(self._model, self._indices)
            self.folding.settle()
            _rename_targets(self._model, before)
            correct_saving(self._model, fields)
        if self._silent:
            logger.info(
                f"SparsityProfileModifier: {len(self._indices)} blocks dropped; {len(self._silent)} sub-layers whose "
                "block stays have an output projection of zeros, which saves no bytes"
            )

    def undo(self) -> None:
        """Give blocks their own forward and sub-layers their weights back; calling it again does nothing."""
        self._restore()
        self._wake()
        self.folding.undo()


def _rename_targets(model: nn.Module, before: Mapping[str, nn.Module]) -> None:
    """Where a quantiser has attached schemes to modules by full names: give them the names that those have now."""
    names = {id(module): name for name, module in model.named_modules()}
    now = {old: names.get(id(module)) for old, module in before.items()}
    schemes = [getattr(module, "quantization_scheme", None) for module in model.modules()]
    for scheme in {id(scheme): scheme for scheme in schemes if scheme is not None}.values():
        renamed = [now.get(target, target) for target in scheme.targets]
        scheme.targets = [target for target in renamed if target is not None]


def correct_later_saves(model: Any) -> None:  # noqa: ANN401 - a Transformers model
    """Make every later save right of a model whose experts the toolkit has taken apart, or that ranks save together."""
    if find_split(model):
        correct_saving(model)
    save_in_step(model)


def correct_saving(
    model: Any,  # noqa: ANN401 - save_pretrained is replaced on it
    fields: frozenset[str] = frozenset(),
    also: Callable[[Path], None] = lambda _: None,
) -> None:
    """Wrap ``model.save_pretrained`` once more, so that what it writes is the pruned model, its experts fused again.

    The toolkit's own save copies the original ``config.json``, block count included, and the checkpoint would reload
    with random blocks and no error. What is written here is read back and compared with the model.

    Args:
        model: The pruned model.
        fields: The configuration fields that dropping blocks changed.
        also: Writes more files into the folder.
    """
    # Once ours is in place the toolkit takes the model for wrapped and would never add its own.
    modify_save_pretrained(model)
    save = model.save_pretrained
    inside = getattr(save, "_unicuco_fields", None)
    if inside is not None:  # a second pruning of the same model
        inside.update(fields)
        save._unicuco_also.append(also)
        return
    reference = weakref.ref(model)
    written, writers = set(fields), [also]

    @wraps(save)
    def save_pretrained(save_directory: str | Path, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        live = reference()
        fuse_experts(live)  # which the toolkit has taken apart, and saves under names that Transformers does not load
        if not is_first():  # of processes that work on one model one writes, and all take part in it
            save(save_directory, *args, **kwargs)
            return
        with shipped_generation(live, Path(save_directory)):
            save(save_directory, *args, **kwargs)
        write_config_fields(Path(save_directory), live, sorted(written))
        for write in writers:
            write(Path(save_directory))
        with as_single_threaded():  # loading packed weights would wait for ranks that do not load
            check_checkpoint(Path(save_directory), live)
            check_loading(Path(save_directory), live)

    # The toolkit's sign that a save is already wrapped.
    save_pretrained._overridden = True  # type: ignore[attr-defined]
    save_pretrained._unicuco_fields = written  # type: ignore[attr-defined]
    save_pretrained._unicuco_also = writers  # type: ignore[attr-defined]
    model.save_pretrained = save_pretrained
