"""Kept parts for tiny models, and the full-shape model that they describe."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts

# Families whose modules come apart; Gemma's norms stand behind its modules too.
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma3", "gemma2", "smollm3", "granite"]
A, M = "model.layers.{}.self_attn", "model.layers.{}.mlp"
WHOLE = {A.format(0): (), M.format(1): (), A.format(4): (), M.format(4): ()}
SOME = {
    A.format(1): (1,),
    M.format(0): tuple(range(0, 48, 3)),
    A.format(2): (0,),
    M.format(2): tuple(range(7, 40)),
    M.format(5): (),
}

# Narrower, some before what goes whole; whole before what does; a block that goes; the last module.
KEPT_BEFORE_CUTS = {
    A.format(1): (1,),
    M.format(1): tuple(range(0, 48, 2)),
    A.format(2): (),
    M.format(3): (),
    A.format(4): (),
    M.format(4): (),
    M.format(5): tuple(range(10, 30)),
}


def draw(length: int, seed: int) -> torch.Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(seed))


def mixed_parts(*, biases: bool, hidden: int = 32) -> KeptParts:
    """Some parts of some modules, a first attention and a last MLP gone, block 4 gone but for a bias."""
    kept = {**WHOLE, **SOME}
    names = (A.format(1), M.format(0), A.format(0), M.format(5), A.format(4))
    return KeptParts(kept, {name: draw(hidden, i) for i, name in enumerate(names)} if biases else {})


def uniform_parts(*, biases: bool = False, gone: int | None = None) -> KeptParts:
    """The same sizes, but not the same parts, in every block that stays."""
    kept = {A.format(i): (i % 2,) for i in range(6)} | {M.format(i): tuple(range(i, i + 32)) for i in range(6)}
    if gone is not None:
        kept |= {A.format(gone): (), M.format(gone): ()}
    names = [A.format(0), M.format(1), A.format(3)]
    return KeptParts(kept, {name: draw(32, i) for i, name in enumerate(names)} if biases else {})


def _silence(mask, _, inputs):
    return (inputs[0] * mask.to(inputs[0]),)


def _add(stays, bias, _, __, output):
    # A module that goes takes its output projection's own bias with it.
    output = output if stays else torch.zeros_like(output)
    return output if bias is None else output + bias.to(output)


@contextmanager
def masked(decoder: Decoder, parts: KeptParts) -> Iterator[None]:
    """The model in its full shape: inputs of removed parts are zeros, modules add their biases."""
    found, hooks = find_parts(decoder), []
    for name, kept in parts.kept.items():
        part = found[name]
        mask = torch.zeros(part.count, part.width)
        mask[list(kept)] = 1
        output = decoder.model.get_submodule(part.output)
        hooks.append(output.register_forward_pre_hook(partial(_silence, mask.reshape(-1))))
        hooks.append(output.register_forward_hook(partial(_add, bool(kept), parts.biases.get(name))))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def masked_logits(decoder: Decoder, parts: KeptParts, ids: torch.Tensor) -> torch.Tensor:
    with masked(decoder, parts):
        return decoder.model(ids, use_cache=False).logits
