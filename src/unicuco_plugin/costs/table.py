"""What each unit weighs in the checkpoint: the numbers that costs are added up from, as a profile keeps them."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from unicuco_plugin.frozen import Frozen
from unicuco_plugin.schemes import DENSE, DENSE_BITS, REMOVED, parse_scheme

__all__ = ["CostTable", "KeptState", "ServingTable"]

_MOST = 2**60  # parameters or bytes; what is added up from a few such numbers still fits into 64 bits
# Numbers for a token, and for a sequence: times the bytes and tokens of the largest load they still fit into 64 bits.
_MOST_KEPT, _MOST_STATE = 10**7, 10**10
Count = Annotated[int, Field(ge=0, le=_MOST)]
Pair = tuple[Count, Count]
Change = Annotated[int, Field(ge=-_MOST, le=_MOST)]
_Name = Annotated[str, Field(min_length=1, max_length=1000)]
_Choice = tuple[_Name, Annotated[float, Field(ge=0, le=DENSE_BITS)], Count]


class KeptState(Frozen):
    """What a layer keeps for each sequence while a model is served.

    Attributes:
        holder: Full name of the module that it goes with.
        numbers: Numbers for each token: keys and values.
        window: Most tokens that are kept; 0 where all are.
        state: Numbers that are kept whatever the length.
    """

    holder: _Name
    numbers: Annotated[int, Field(ge=0, le=_MOST_KEPT)]
    window: Annotated[int, Field(ge=0, le=_MOST)] = 0
    state: Annotated[int, Field(ge=0, le=_MOST_STATE)] = 0


class ServingTable(Frozen):
    """What a model needs beside its weights while it is served; numbers of bytes follow from a dtype and a load.

    Attributes:
        kept: Of each layer that keeps something.
        widest: Numbers for each token of a step, where it is widest.
        logits: Numbers for each sequence, before a token is drawn.
    """

    kept: tuple[KeptState, ...] = Field(max_length=100_000)
    widest: Annotated[int, Field(gt=0, le=_MOST_KEPT)]
    logits: Annotated[int, Field(gt=0, le=_MOST_KEPT)]

    @model_validator(mode="after")
    def _check_kept(self) -> Self:
        numbers, state = sum(entry.numbers for entry in self.kept), sum(entry.state for entry in self.kept)
        if numbers > _MOST_KEPT or state > _MOST_STATE:
            raise ValueError(
                f"kept must be what one model keeps, got {numbers:.3g} numbers a token, {state:.3g} beside"
            )
        return self


class CostTable(Frozen):
    """What each unit weighs in the checkpoint, in parameters and in bytes.

    Attributes:
        unit_params: Parameters of each unit; of all its parts, where it has parts.
        unit_bytes: Bytes of the weight files that go with it.
        total_params, total_bytes: Of the dense checkpoint.
        dtype: The dtype those bytes are counted in.
        blocks: Parameters and bytes by name of each block that leaves with the last of its units: all of it where
            units alone leave nothing, else what belongs to none of them.
        parts: Equal parts of each unit, and how many of them go together, where units go part by part.
        rests: Parameters and bytes that leave beside its parts when a unit goes whole, less those of the bias that
            then stands for it.
        biases: Parameters and bytes that a unit gains which loses some of its parts: of the bias that stands for them.
        choices: How each unit may be stored, where it is stored by a scheme: from most bits to least; where its block
            may leave, being gone is the last.
        serving: What a server needs beside the weights; None where nobody has looked.
    """

    unit_params: tuple[Count, ...]
    unit_bytes: tuple[Count, ...]
    total_params: Annotated[int, Field(gt=0, le=_MOST)]
    total_bytes: Annotated[int, Field(gt=0, le=_MOST)]
    dtype: _Name
    blocks: dict[_Name, Pair] = Field(default_factory=dict)
    parts: tuple[Pair, ...] = ()
    rests: tuple[tuple[Change, Change], ...] = ()
    biases: tuple[Pair, ...] = ()
    choices: tuple[Annotated[tuple[_Choice, ...], Field(min_length=1)], ...] = ()
    serving: ServingTable | None = None

    @model_serializer(mode="wrap")
    def _without(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Older readers know no such field.
        return {name: value for name, value in dump(self).items() if name not in ("choices", "serving") or value}

    @model_validator(mode="after")
    def _check_totals(self) -> Self:
        for name, each, total in (
            ("params", self.unit_params, self.total_params),
            ("bytes", self.unit_bytes, self.total_bytes),
        ):
            if sum(each) > total:
                raise ValueError(f"total_{name} must be at least the {sum(each):,} of all units, got {total:,}")
        if not any(self.unit_params):
            raise ValueError("unit_params must not all be 0")
        if any(step < 1 or step > count for count, step in self.parts):
            raise ValueError("parts must be (equal parts, how many go together), at least one, and no more than all")
        if any(wide[1] <= narrow[1] for row in self.choices for wide, narrow in pairwise(row)):
            raise ValueError("choices must be listed from most bits to least, no two of them alike")
        for name, pairs in (("blocks", self.blocks.values()), ("rests", self.rests), ("biases", self.biases)):
            if _sum(pairs) > _MOST:
                raise ValueError(f"{name} must be parameters and bytes of one model, got {_sum(pairs):.3g} altogether")
        return self

    def in_dtype(self, dtype: str, change: int) -> Self:
        """The same checkpoint saved in another dtype, such as ``"float32"``; exact for models of one dtype.

        Args:
            dtype: Its name.
            change: Bytes that a parameter has more in it than in the table's own.
        """

        def wider(pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
            return tuple((params, size + change * params) for params, size in pairs)

        # Units that leave nothing by themselves have no bytes, whatever their dtype.
        own = zip(self.unit_params, self.unit_bytes, strict=True)
        changed = {
            "unit_bytes": tuple(size and size + change * params for params, size in own),
            "total_bytes": self.total_bytes + change * self.total_params,
            "dtype": dtype,
            "blocks": dict(zip(self.blocks, wider(self.blocks.values()), strict=True)),
            "rests": wider(self.rests),
            "biases": wider(self.biases),
            "choices": tuple(
                tuple((name, bits, size + change * _in_dtype(name, bits, params)) for name, bits, size in row)
                for row, params in zip(self.choices, self.unit_params, strict=False)
            ),
        }
        return self.model_copy(update=changed)

    def check_lengths(self, count: int) -> None:
        """Refuse a table of another number of units.

        Raises:
            ValueError: If a list has not one entry for each of ``count`` units.
        """
        lists = ("unit_params", "unit_bytes", *(("parts", "rests", "biases") if self.parts else ()))
        lists += ("choices",) if self.choices else ()
        for name in lists:
            found = len(getattr(self, name))
            if found != count:
                raise ValueError(f"sizes.{name} must have one entry for each of {count} units, got {found}")


def _sum(pairs: Iterable[tuple[int, int]]) -> int:
    return sum(abs(number) for pair in pairs for number in pair)


def _in_dtype(name: str, bits: float, params: int) -> int:
    """How many numbers of a stored unit are in the model's dtype: its weights, or scales of them."""
    if name == DENSE:
        return params
    if name == REMOVED:
        return 0
    scheme = parse_scheme(name)
    if scheme.format == "nvfp4-pack-quantized":  # whose scales are floats of eight bits
        return 0
    zero_point = 0 if scheme.symmetric else scheme.bits
    return round(params * (bits - scheme.bits) / (DENSE_BITS + zero_point))
