"""Blocks dropped for real: modules, indices and configuration together."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from unicuco_plugin.models.blocks.as_configured import check_structure
from unicuco_plugin.models.blocks.config import shrink_config, shrink_fields
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder

__all__ = ["drop_blocks", "dropped", "shrink_config"]


def drop_blocks(model: PreTrainedModel, indices: Iterable[int], *, check: bool = True) -> None:
    """Remove blocks from a model in memory, for good.

    The live configuration changes in place, so every module that holds it agrees, and ``save_pretrained`` writes a
    checkpoint that stock Transformers loads with the same logits. After an error the model is as it was.

    Args:
        model: A causal language model, on any device.
        indices: Blocks to remove, each once, in [0, blocks).
        check: Whether the result is held against its configuration; a caller that changes more does so when it is done.

    Raises:
        StrategyError: If an index is out of range or occurs twice, or no block would be left.
        UnsupportedModelError: If the model cannot be pruned, or its configuration cannot describe what is left.
    """
    _shrunk(model, indices, check=check)


@contextmanager
def dropped(model: PreTrainedModel, indices: Iterable[int]) -> Iterator[None]:
    """Drop blocks inside a ``with``; modules, configuration and indices are restored however it ends.

    Raises:
        StrategyError: If an index is out of range or occurs twice, or no block would be left.
        UnsupportedModelError: If the model cannot be pruned, or its configuration cannot describe what is left.
    """
    undo = _shrunk(model, indices)
    try:
        yield
    finally:
        undo()


class _Undo:
    """Everything that dropping changes, as it was."""

    def __init__(self, decoder: Decoder) -> None:
        self.blocks = decoder.blocks
        self.modules = decoder.blocks._modules
        self.configs = [(config, dict(vars(config))) for config in _live_configs(decoder)]
        self.places: list[tuple[nn.Module, str, int]] = []  # what modules said of themselves, flags included

    def __call__(self) -> None:
        self.blocks._modules = self.modules
        for config, fields in self.configs:
            vars(config).clear()
            vars(config).update(fields)
        for module, attribute, place in self.places:
            setattr(module, attribute, place)


def _shrunk(model: PreTrainedModel, indices: Iterable[int], *, check: bool = True) -> _Undo:
    """Drop, and return what takes it back; after an error that is done."""
    decoder = find_decoder(model)
    undo = _Undo(decoder)
    try:
        _shrink(decoder, decoder.check_indices(indices), undo, check=check)
    except BaseException:
        undo()
        raise
    return undo


def _shrink(decoder: Decoder, indices: tuple[int, ...], undo: _Undo, *, check: bool) -> None:
    if not indices:
        return
    kept = [index for index in range(len(decoder.blocks)) if index not in indices]
    fields = shrink_fields(decoder.config, kept)
    for new, old in enumerate(kept):
        for module in decoder.blocks[old].modules():
            _move_module(module, decoder.family.places, old, new, undo.places)
    decoder.blocks._modules = {str(new): decoder.blocks[old] for new, old in enumerate(kept)}
    for config, _ in undo.configs:
        _set_fields(config, fields)
    _note_again(decoder, undo.places)
    if check:
        check_structure(decoder.model)


def _move_module(
    module: nn.Module, attributes: Iterable[str], old: int, new: int, places: list[tuple[nn.Module, str, int]]
) -> None:
    for attribute in attributes:
        place = vars(module).get(attribute)
        # layer_number counts from one in the families that have it.
        if type(place) is int and place - old in (0, 1):
            places.append((module, attribute, place))
            setattr(module, attribute, place - old + new)


def _note_again(decoder: Decoder, places: list[tuple[nn.Module, str, int]]) -> None:
    """Some families note when they are built whether any block has attention of a kind."""
    for module in decoder.model.modules():
        for attribute in vars(module).keys() & decoder.family.noted.keys():
            noted = vars(module)[attribute]
            if noted is not None:
                places.append((module, attribute, noted))
                setattr(module, attribute, decoder.family.noted[attribute] in decoder.config.layer_types)


def _live_configs(decoder: Decoder) -> list[PreTrainedConfig]:
    """The text configuration and the copies of it that some families give their modules."""
    found = {id(decoder.config): decoder.config}
    for module in decoder.model.modules():
        config: Any = getattr(module, "config", None)
        if type(config) is type(decoder.config) and config.num_hidden_layers == decoder.config.num_hidden_layers:
            found[id(config)] = config
    return list(found.values())


def _set_fields(config: PreTrainedConfig, fields: dict[str, Any]) -> None:
    for field, value in fields.items():
        # Copies for single blocks have the sizes of theirs, and no list of all.
        if field != "per_layer_config" or getattr(config, "is_heterogeneous", False):
            setattr(config, field, value)
