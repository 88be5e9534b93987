"""The one gate for what is not finite: weights, states between blocks, scores and results."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import EvaluationError, UnsupportedModelError, quoted
from unicuco_plugin.models.tensors.storage import read_named, read_parameters
from unicuco_plugin.models.tensors.tensor_facts import TensorFacts

__all__ = ["FiniteStates", "check_finite", "check_weights"]

# States whose extremes wait on their device before anyone looks: a look costs a synchronisation.
_WAITING = 64


def check_finite(what: str, values: Mapping[str, float] | Iterable[float] | Tensor, dtype: torch.dtype) -> None:
    """Refuse scores or results among which one is not finite.

    Args:
        what: What they are, in the singular: it begins the message.
        values: Numbers, by name where they have names.
        dtype: Of the model that they were found with.

    Raises:
        EvaluationError: If one is NaN or infinite; the message names it and says which dtype to take.
    """
    if isinstance(values, Tensor):
        if not _finite(values):
            raise EvaluationError(f"{what} is not finite in {_name(dtype)}; {_advice(dtype)}")
        return
    named = isinstance(values, Mapping)
    for name, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        if not torch.isfinite(torch.tensor(value)):
            where = f" of {quoted(name)}" if named else ""
            raise EvaluationError(f"{what}{where} must be finite, got {value} in {_name(dtype)}; {_advice(dtype)}")


@torch.no_grad()
def check_weights(model: nn.Module, name: str, *, made: bool = False) -> None:
    """Refuse a model one of whose weights or biases is not finite; tensors on the meta device are not looked at.

    Args:
        model: On any devices; each is synchronised once. What is offloaded is read one tensor at a time, and what lies
            in files that were looked at before and have not changed is not read again.
        name: What to call the model in the message.
        made: Whether the weights were computed here, and not read from files.

    Raises:
        UnsupportedModelError: If one is NaN or infinite; the message names the tensor and says what to do.
    """
    facts = TensorFacts(model, "finite")
    found: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for tensor, values in read_parameters(model, lambda tensor: facts.get(tensor) is None):
        if values.is_floating_point() and values.itemsize > 1 and not values.is_meta and values.numel():
            found.setdefault(values.device, []).append((tensor, _extremes(values)))
    for entries in found.values():
        sound = torch.stack([extremes.float() for _, extremes in entries]).isfinite().all(1).tolist()
        for (tensor, _), good in zip(entries, sound, strict=True):
            if not good:
                values = read_named(model, tensor)
                raise UnsupportedModelError(f"{name}: {_say_weight(tensor, values, made=made)}")
            facts.note(tensor, "yes")
    facts.keep()


def _say_weight(tensor: str, values: Tensor, *, made: bool) -> str:
    count = values.numel() - int(values.isfinite().count_nonzero())
    some = f"{count:,} of {values.numel():,} numbers of {tensor} are not finite in {_name(values.dtype)}"
    # What a narrow dtype cannot hold becomes infinite when it is loaded; NaN was NaN in the file.
    if made or (values.dtype == torch.float16 and not values.isnan().any()):
        return f"{some}; {_advice(values.dtype)}"
    return f"{some}: they are so in its files, and --dtype mends nothing; take a sound copy of the model"


class FiniteStates:
    """Looks at what leaves blocks, without a synchronisation for each.

    Args:
        names: Of the blocks.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._waiting: list[tuple[int, torch.dtype, Tensor]] = []

    def add(self, index: int, states: Tensor) -> None:
        """Note the states that leave a block.

        Raises:
            EvaluationError: As :meth:`check`, at once on the CPU, after some blocks elsewhere.
        """
        self._waiting.append((index, states.dtype, _extremes(states)))
        if states.device.type == "cpu" or len(self._waiting) >= _WAITING:
            self.check()

    def check(self) -> None:
        """Look at everything noted since.

        Raises:
            EvaluationError: If some was NaN or infinite; the message names the first block that gave it.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        place = waiting[0][2].device
        sound = torch.stack([extremes.to(place).float() for _, _, extremes in waiting]).isfinite().all(1).tolist()
        for (index, dtype, _), good in zip(waiting, sound, strict=True):
            if not good:
                raise EvaluationError(
                    f"block {self._names[index]} gives values that are not finite in {_name(dtype)}; {_advice(dtype)}"
                )


def _extremes(values: Tensor) -> Tensor:
    """Smallest and largest, NaN if one is NaN: an order of magnitude cheaper than a mask of what is finite."""
    if not values.numel():
        return values.new_zeros(2)
    return torch.stack(torch.aminmax(values.detach()))


def _finite(values: Tensor) -> bool:
    return bool(_extremes(values).isfinite().all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _advice(dtype: torch.dtype) -> str:
    match dtype:
        case torch.float16:
            return "take --dtype bfloat16 or float32"
        case torch.bfloat16:
            return "take --dtype float32"
        case _:
            return "no --dtype is wider: the model or the text is at fault"
