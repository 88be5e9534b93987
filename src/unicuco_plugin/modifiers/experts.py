"""Mixture-of-experts models, whose fused experts the toolkit splits into linears before any modifier runs."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from llmcompressor.modeling.moe.linearize import get_linearized_moes

__all__ = ["native_experts"]


@contextmanager
def native_experts(model: Any) -> Iterator[None]:  # noqa: ANN401 - a Transformers model, untyped
    """Put the family's own experts, without data, in the place of the toolkit's inside a ``with``.

    A model with split experts is not the one that its configuration builds, so no check of its structure would pass.
    Blocks may be dropped inside; the toolkit's experts return to the blocks that are left.

    Args:
        model: Any causal language model; one without split experts is not touched.
    """
    split = get_linearized_moes(model)
    if not split:
        yield
        return
    with torch.device("meta"):
        fresh = type(model)._from_config(copy.deepcopy(model.config))
    # By parent, since blocks that move keep their objects but not their names.
    places = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], module) for name, module in split]
    for (parent, child, _), (name, _) in zip(places, split, strict=True):
        setattr(parent, child, fresh.get_submodule(name))
    try:
        yield
    finally:
        for parent, child, module in places:
            setattr(parent, child, module)
