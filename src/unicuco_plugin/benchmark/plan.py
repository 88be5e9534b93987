"""What a benchmark runs, as its YAML says it."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from unicuco_plugin.benchmark.method import Method, Text, check_values, read_bits
from unicuco_plugin.errors import RecipeError, UnicucoError, explain, quoted
from unicuco_plugin.files.yaml_tree import compose_yaml, plain_values, read_yaml
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.models.placement import Offload
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.traits import SPACES, traits_of

__all__ = ["METHODS", "BenchmarkPlan", "Cell", "read_plan"]

# The group of the methods proper; every ablation is a group of its own.
METHODS = "methods"


@dataclass(frozen=True)
class Cell:
    """One answer to find and measure.

    Attributes:
        group: ``methods``, or the name of an ablation.
        name: Of the method.
        method: How it answers.
        seed: Of everything random.
        budget: Sparsity asked for.
        settings: Of training; None for a method that is not trained.
        identity: A hash of everything but the budget that determines the answer.
    """

    group: str
    name: str
    method: Method
    seed: int
    budget: float
    settings: Settings | None
    identity: str

    @property
    def key(self) -> str:
        """Its name in the journal: what determines its answer, whatever it is called."""
        return f"{self.identity}/{self.budget!r}"


class BenchmarkPlan(Frozen):
    """A benchmark's YAML.

    Attributes:
        model: Folder or hub name of the dense model.
        dtype, device, offload: As in ``unicuco train``.
        space: Of all answers.
        levels: A level database, for the spaces ``sparsity`` and ``precision``.
        calibration: What peers calibrate on, and the sources that training draws its own windows from.
        evaluation: Text by name; nothing is fitted to it.
        budgets: Sparsities, each in (0, 1); the field ``bits`` gives them as mean bits of a weight instead.
        seeds: For methods that are random; others run once, with the first.
        train: Settings of every training run.
        granularity: Of the units of training in the space ``sparsity``.
        methods: By name.
        ablations: Name → variant → training settings on top of ``train``.
        requests: Numbers of requests in the picture of total times.
    """

    model: str
    dtype: str = "auto"
    device: str = "cpu"
    offload: Offload = "auto"
    space: str = "depth"
    levels: Path | None = None
    calibration: Text
    evaluation: dict[str, Text] = Field(min_length=1)
    budgets: tuple[float, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    train: dict[str, Any] = Field(default_factory=dict)
    granularity: Literal["block", "sublayer", "linear"] = "linear"
    methods: dict[str, Method] = Field(min_length=1)
    ablations: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    requests: tuple[int, ...] = Field(default=(1, 2, 4, 8, 16, 32, 64), min_length=1)

    _read_bits = model_validator(mode="before")(read_bits)

    @field_validator("space")
    @classmethod
    def _check_space(cls, value: str) -> str:
        if traits_of(value).effect is None:
            raise ValueError(f"space: Input should be one of {', '.join(SPACES)}, got {quoted(value)}")
        return value

    @field_validator("requests")
    @classmethod
    def _check_requests(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError(f"requests must be 1 or more each, got {min(value)}")
        return value

    @field_validator("ablations")
    @classmethod
    def _check_names(cls, value: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
        wrong = [name for name in value if not re.fullmatch(r"[\w.-]+", name)]
        if wrong:
            raise ValueError(f"ablations must be named by letters, digits, '.', '_' and '-', got {quoted(wrong[0])}")
        return value

    @model_validator(mode="after")
    def _check_methods(self) -> Self:
        if traits_of(self.space).on_levels != (self.levels is not None):
            raise ValueError(
                f"levels goes with the spaces 'sparsity', 'precision' and 'compound', got {self.levels} for "
                f"{self.space!r}"
            )
        check_values(self.budgets, self.seeds)
        for name, method in self.methods.items():
            try:
                method.check(self.space)
            except (UnicucoError, ValueError) as error:
                raise ValueError(f"methods.{name}: {error}") from error
        if METHODS in self.ablations:
            raise ValueError(f"ablations must not be called {METHODS!r}")
        list(self.cells())  # settings are checked here, before anything runs
        return self

    def _settings(self, place: str, method: Method, seed: int) -> Settings | None:
        if method.train is None:
            return None
        try:
            return Settings.model_validate(self.train | method.train | {"seed": seed})
        except ValidationError as error:
            raise ValueError(f"{place}: {explain(error)}") from error

    def _identity(self, method: Method, seed: int, settings: Settings | None) -> str:
        whole = {name for name in ("windows", "compensation") if getattr(method, name) is None}
        how = method.model_dump(mode="json", exclude={"budgets", "seeds", "train", *whole})
        base = self.model_dump(mode="json", include={"calibration", "levels", "granularity"})
        trained = None if settings is None else settings.model_dump(mode="json")
        content = json.dumps([how, base, seed, trained], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def cells(self) -> Iterator[Cell]:
        """Everything there is to run, in order; answers of one trained profile come one after another."""
        variants = {
            (group, name): Method(train=settings)
            for group, named in self.ablations.items()
            for name, settings in named.items()
        }
        named_methods = {(METHODS, name): method for name, method in self.methods.items()}
        for (group, name), method in (named_methods | variants).items():
            seeds = method.seeds or self.seeds
            for seed in seeds if method.random else seeds[:1]:
                place = f"{METHODS}.{name}" if group == METHODS else f"ablations.{group}.{name}"
                settings = self._settings(place, method, seed)
                identity = self._identity(method, seed, settings)
                for budget in method.budgets or self.budgets:
                    yield Cell(group, name, method, seed, budget, settings, identity)


def read_plan(path: Path) -> BenchmarkPlan:
    """Read a benchmark's YAML.

    Raises:
        RecipeError: If it cannot be read or a field is wrong; the message names the field, the rule and the value.
    """
    name = f"benchmark {path}"
    root = compose_yaml(name, read_yaml(path, "benchmark"))
    data = None if root is None else plain_values(name, root)
    try:
        return BenchmarkPlan.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"benchmark {path}: {explain(error)}") from error
