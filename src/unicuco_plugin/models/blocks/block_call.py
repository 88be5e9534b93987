"""How a model calls a block: the states, and everything beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BlockCall", "same_numbers"]


@dataclass(frozen=True)
class BlockCall:
    """How the model called a block: everything beside the states.

    Attributes:
        args: Positional arguments, without the states.
        kwargs: The others, without the states.
        keyword: The name under which the states came; None where they came first.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    keyword: str | None

    @classmethod
    def split(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, "BlockCall"]:
        """Tell the states from the rest."""
        if args:
            return args[0], cls(args[1:], dict(kwargs), None)
        name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        return kwargs[name], cls((), {key: value for key, value in kwargs.items() if key != name}, name)

    def __call__(self, block: nn.Module, states: Tensor) -> Any:  # noqa: ANN401 - whatever the block returns
        """Call a block in the same way, on these states."""
        if self.keyword is None:
            return block(states, *self.args, **self.kwargs)
        return block(*self.args, **{self.keyword: states}, **self.kwargs)


def same_numbers(one: object, other: object) -> bool:
    """Whether two arguments hold the same numbers; of objects that are no numbers the kind is compared."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or torch.equal(one, other.to(one.device))
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_numbers(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(same_numbers(*pair) for pair in zip(one, other, strict=True))
    return one == other if isinstance(one, bool | int | float | str) else True
