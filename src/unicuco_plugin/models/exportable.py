"""Can this be exported? Asked of a configuration before anything expensive, in a second and without weights."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from unicuco_plugin.errors import UnsupportedModelError, clip
from unicuco_plugin.models.blocks.config import shrink_config
from unicuco_plugin.models.blocks.coverage import check_share
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.sublayers import check_outputs
from unicuco_plugin.models.blocks.surgery import dropped
from unicuco_plugin.models.checkpoints.loadability import build_sketch, disk_state, find_unfit
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.parts.zeroing import check_any_room
from unicuco_plugin.models.sketch import sketch_model
from unicuco_plugin.traits import SpaceTraits, traits_of

__all__ = ["check_exportable"]


def check_exportable(
    config: PreTrainedConfig,
    space: str | None = None,
    *,
    kind: type[PreTrainedModel] | None = None,
    share: float | None = None,
    format: str | None = None,
    compensate: bool = True,
    trust_remote_code: bool = False,
) -> Decoder:
    """Refuse a model whose pruned checkpoint could not be written, or would not load.

    On the meta device: the configuration must build a model; the names that its tensors have on disk must load again;
    what the space removes is removed once, and held against the configuration: a block, half a block, or parts of a
    module; and zeros in linears must make the share that is asked.

    Args:
        config: Of the dense model, as :func:`~unicuco_plugin.models.loading.load_config` gives it; not changed.
        space: What will be removed, by the space's name; of one without traits only names are checked.
        kind: The model's class, where it is in memory; found by its configuration otherwise.
        share: Where weights are zeroed: what is asked, in (0, 1); None where it is not known yet.
        format: Where parts are cut: ``compact``, ``deci`` or ``stock``; None lets the first or the last do. Where
            halves go: ``deci``, or None.
        compensate: Where parts are cut: whether biases will stand for what is removed.
        trust_remote_code: Whether code in the model's own repository may run.

    Returns:
        The model without weights, whole again, for questions about a strategy.

    Raises:
        UnsupportedModelError: With the reason, whose rule it is, and what can be done.
    """
    sketch = partial(sketch_model, config, kind, trust_remote_code=trust_remote_code)
    model = sketch()
    _check_names(model)
    decoder = find_decoder(model)
    traits = SpaceTraits("") if space is None else traits_of(space)
    if traits.halves and format == "deci":
        apply_parts(sketch(), _few_parts(decoder, compensate=False, groups=False), format=format)
    elif traits.halves:
        check_outputs(decoder)
    if traits.whole:
        _drop_one(decoder, traits.name)
    if traits.zeroes:
        check_share(decoder, share)
    if traits.on_levels:
        _check_linears(decoder)
    if traits.cuts:
        _check_structured(sketch, format, compensate=compensate)
    # Learned positions and the window, the tokenizer and the rows of the embedding: the place to ask for them.
    return decoder


def _check_names(whole: PreTrainedModel) -> None:
    label, model = type(whole).__name__, _sample(whole)
    try:
        unfit = find_unfit(type(model), model.config, disk_state(model))
    except Exception as error:
        raise UnsupportedModelError(
            f"{label}: Transformers does not load what it saves of this family: {_first_line(error)}; take another "
            "version of it"
        ) from error
    if unfit:
        raise UnsupportedModelError(
            f"{label}: Transformers does not load what it saves of this family ({unfit[0]}), so no checkpoint can be "
            "exported; take another version of Transformers"
        )


def _sample(model: PreTrainedModel) -> PreTrainedModel:
    """The same with one block of each kind: what holds for its names holds for those of hundreds of experts."""
    decoder = find_decoder(model)
    kinds: dict[object, int] = {}
    for index, block in enumerate(decoder.blocks):
        kinds.setdefault(tuple((name, tensor.shape) for name, tensor in block.state_dict().items()), index)
    if len(kinds) == len(decoder.blocks):
        return model
    try:
        return build_sketch(type(model), shrink_config(model.config, sorted(kinds.values())))
    except Exception:  # whatever a family raises that cannot have so few
        return model


def _check_linears(decoder: Decoder) -> None:
    """Refuse a class of linears whose outputs are not the input times its weight (DeepSeek-V4's, in groups)."""
    for name, linear in decoder.all_linears().items():
        if type(linear).forward is nn.Linear.forward:
            continue
        try:
            shape = linear(torch.empty(2, 3, linear.in_features, device="meta", dtype=linear.weight.dtype)).shape
        except Exception:  # whatever its own forward makes of states
            shape = torch.Size()
        if shape != (2, 3, linear.out_features):
            raise UnsupportedModelError(
                f"{name}: {type(linear).__name__} does not multiply its input by its weight, as llm-compressor takes "
                "for granted when it zeroes a share of it; take the space depth"
            )


def _check_structured(sketch: Callable[[], PreTrainedModel], format: str | None, *, compensate: bool) -> None:
    def cut(decoder: Decoder, format: str = "compact") -> None:
        parts = _few_parts(decoder, compensate=compensate, groups=format != "deci")
        apply_parts(decoder.model, parts, format=format)

    def zero(decoder: Decoder) -> None:
        find_parts(decoder)
        if compensate:
            check_any_room(decoder)

    ways: dict[str, Callable[[Decoder], None]] = {"compact": cut, "stock": zero, "deci": partial(cut, format="deci")}
    refused: UnsupportedModelError | None = None
    for name in [format] if format else ("compact", "stock"):
        try:
            ways[name](find_decoder(sketch()))
        except UnsupportedModelError as error:
            refused = refused or error
        else:
            return
    if refused is None:
        return
    if compensate and format is None:  # what neither form can do with biases, the stock one may without
        try:
            _check_structured(sketch, "stock", compensate=False)
        except UnsupportedModelError:
            raise refused from None
        raise UnsupportedModelError(
            f"{clip(str(refused).partition('; take')[0], 170)}, and the stock form has no room for biases; pass "
            "--no-compensate, and prune with --format stock"
        ) from refused
    raise refused


def _few_parts(decoder: Decoder, *, compensate: bool, groups: bool = True) -> KeptParts:
    """The first attention without its last group, if ``groups``, half of the first MLP, and the last block gone."""
    parts, last = find_parts(decoder), decoder.block_names[-1]
    first = {part.kind: part for part in reversed(parts.values()) if groups or part.kind != "attention"}
    kept = {part.name: tuple(range(part.count - max(part.count // 2, 1))) for part in first.values() if part.count > 1}
    bias = torch.zeros(decoder.config.hidden_size)
    biases = dict.fromkeys(kept, bias) if compensate else {}
    if len(decoder.blocks) > 1:
        kept |= {name: () for name in parts if name.startswith(f"{last}.")}
    return KeptParts(kept, biases)


def _drop_one(decoder: Decoder, space: str) -> None:
    """Take a block out of the middle: those behind it change their places."""
    count, label = len(decoder.blocks), type(decoder.model).__name__
    if count < 2:
        return
    try:
        with dropped(decoder.model, [count // 2 - 1]):
            pass
    except UnsupportedModelError as error:
        reason = clip(str(error).removeprefix(f"{label}: "), 130)
        raise UnsupportedModelError(
            f"{label}: no checkpoint of the space {space} would load as what was pruned: without one block {reason}; "
            "take the space sparsity"
        ) from error


def _first_line(error: Exception) -> str:
    return clip(next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__), 120)
