"""A model's units under a configuration: how each is stored."""

from dataclasses import dataclass
from functools import cached_property

from unicuco_plugin.serving.layers import Unit
from unicuco_plugin.serving.matching import Matcher
from unicuco_plugin.serving.quantization import Group, Quantization
from unicuco_plugin.serving.schemes import scheme_name

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """A model's units under a configuration.

    Attributes:
        quantization: The configuration.
        units: All of the model's.
    """

    quantization: Quantization
    units: tuple[Unit, ...]

    @cached_property
    def matcher(self) -> Matcher:
        """Which group is whose."""
        return Matcher(self.quantization)

    @cached_property
    def written(self) -> dict[str, str | None]:
        """The group by which each linear is stored."""
        return {name: self.matcher.written(name) for unit in self.units for name in unit.names}

    def groups(self, unit: Unit) -> set[str | None]:
        """The groups by which a unit's linears are stored, one name for equal ones."""
        found: list[str | None] = []
        for name in dict.fromkeys(self.written[linear] for linear in unit.names):
            if not any(self.same(name, other) for other in found):
                found.append(name)
        return set(found)

    def group(self, unit: Unit) -> Group | None:
        """How a unit is stored; None for 16 bits, or where its linears differ."""
        found = self.groups(unit)
        return self.matcher.group(next(iter(found))) if len(found) == 1 else None

    def same(self, one: str | None, other: str | None) -> bool:
        """Whether two groups store a linear in one way."""
        first, second = self.matcher.group(one), self.matcher.group(other)
        return first is second or (
            first is not None and second is not None and self._fields(first) == self._fields(second)
        )

    def say(self, name: str | None) -> str:
        """A group's scheme in words."""
        group = self.matcher.group(name)
        return "16 bits" if group is None else scheme_name(group)

    def loads_as(self, stored: str | None, served: str | None) -> bool:
        """Whether vLLM would read the tensors of one group as those of another, and not notice.

        It refuses shapes that differ, and tensors that it does not ask for; what it asks for and does not find, such as
        zero points, it leaves as it was made.
        """
        first, second = self.matcher.group(stored), self.matcher.group(served)
        if first is None or second is None or first.weights is None or second.weights is None:
            return False
        return self._shape(first) == self._shape(second) and self._more(first) <= self._more(second)

    def _fields(self, group: Group) -> object:
        weights, inputs, outputs = (
            args and args.model_dump(include={"num_bits", "type", "symmetric", "strategy", "group_size", "dynamic",
                                              "block_structure"})
            for args in (group.weights, group.input_activations, group.output_activations)
        )  # fmt: skip
        return weights, inputs, outputs, self.quantization.format_of(group)

    def _shape(self, group: Group) -> object:
        weights = group.weights
        assert weights is not None  # noqa: S101 - asked before
        fields = weights.model_dump(include={"num_bits", "type", "strategy", "group_size", "block_structure"})
        return fields, self.quantization.format_of(group)

    def _more(self, group: Group) -> set[str]:
        """What is stored beside a weight and its scales."""
        inputs = group.input_activations
        still = inputs is not None and not inputs.dynamic
        points = group.weights is not None and not group.weights.symmetric
        # NVFP4 of activations, too, whose scales have a scale of their own.
        scaled = inputs is not None and group.weights is not None and group.weights.strategy == "tensor_group"
        stored = {"weight_zero_point": points, "input_scale": still, "input_global_scale": scaled}
        return {name for name, there in stored.items() if there}
