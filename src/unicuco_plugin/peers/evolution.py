r"""EvoPress's search: one parent, many offspring, survivors chosen on more and more tokens.

A generation draws offspring by mutation. Each stage of selection draws a fresh minibatch, scores its candidates on it
and keeps the best; the parent joins the last stage and is scored beside the others on its minibatch, so that luck on an
earlier one is no help. The one that is left is the next parent.

All randomness of generation ``g`` comes from a generator seeded by ``(seed, g)``. A search that is resumed after
generation ``g`` thus goes on as the unbroken one does, and a longer one begins as a shorter one.

Source: Sieberling et al. 2025, "EvoPress", Algorithm 1 and public code.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from torch import Tensor

from unicuco_plugin.errors import RequestError
from unicuco_plugin.peers.minibatch import check_pool, draw_minibatch
from unicuco_plugin.peers.rounds import Rounds
from unicuco_plugin.progress import Progress

__all__ = ["Evolution", "EvolutionSettings", "Found", "Genome", "Problem"]

Genome = tuple[int, ...]

# Mutations tried for each offspring before a space is taken to have no more distinct ones.
_TRIES = 50


@dataclass(frozen=True)
class EvolutionSettings:
    """How long and how carefully a search goes.

    Attributes:
        generations: After the initial one.
        offspring: In each generation.
        survivors: Left after each stage of selection; the last is 1.
        tokens: Of the minibatch of each stage.
        initial: Random genomes of which the best is the first parent; 1 takes it unmeasured.
        initial_tokens: Of the minibatch that chooses among them.
    """

    generations: int
    offspring: int
    survivors: tuple[int, ...]
    tokens: tuple[int, ...]
    initial: int = 1
    initial_tokens: int = 0

    @property
    def generation_tokens(self) -> int:
        """Most evaluation tokens of one generation."""
        candidates = [self.offspring, *self.survivors[:-1]]
        candidates[-1] += 1
        return sum(count * tokens for count, tokens in zip(candidates, self.tokens, strict=True))


class Problem(Protocol):
    """What is searched: genomes, their mutations, and what they are worth."""

    def first(self, count: int, random: np.random.Generator) -> list[Genome]:
        """At most ``count`` distinct genomes to choose the first parent from; at least one."""
        ...

    def mutate(self, parent: Genome, random: np.random.Generator) -> Genome:
        """One offspring; may be the parent again."""
        ...

    def measure(self, genomes: Sequence[Genome], batches: Sequence[Tensor]) -> list[float]:
        """Divergence of each genome on one minibatch, lower is better."""
        ...


@dataclass(frozen=True)
class Found:
    """Where a search ended.

    Attributes:
        genome: The last parent.
        fitness: Its divergence on the last minibatch; infinity if none was ever measured.
        generations: Done, the initial one not counted.
        tokens, seconds: Spent, all runs of a resumed search together.
        first_seconds: Of these before the first generation: the choice of the first parent.
    """

    genome: Genome
    fitness: float
    generations: int
    tokens: int
    seconds: float
    first_seconds: float


@dataclass(frozen=True)
class Evolution:
    """A search, ready to run.

    Attributes:
        problem: What is searched.
        settings: How.
        windows: The pool of minibatches, ``m x L`` token ids.
        seed: Decides everything random.
        token_budget: Most evaluation tokens to spend; None for no limit.
        progress: Called after every generation.
    """

    problem: Problem
    settings: EvolutionSettings
    windows: Tensor
    seed: int
    token_budget: int | None = None
    progress: Callable[[Progress], None] = lambda _: None

    def run(self, rounds: Rounds) -> Found:
        """Search until the generations are done or the next would exceed the token budget.

        Args:
            rounds: Steps of earlier runs, which are not measured again; new ones are added.

        Raises:
            CalibrationError: If the pool is smaller than a minibatch.
            RequestError: If the token budget does not cover the choice of the first parent.
        """
        check_pool(self.windows, (*self.settings.tokens, self.settings.initial_tokens))
        total = self.settings.generations
        least = self.settings.initial * self.settings.initial_tokens
        if self._exceeds(least):
            raise RequestError(
                f"token_budget must be at least {least:,} for the first parent, got {self.token_budget:,}"
            )
        rounds.once(0, self._begin)
        # A journal of a longer search holds more generations than were asked for now.
        done = min(len(rounds) - 1, total)
        while done > 0 and self._exceeds(rounds[done]["tokens"]):
            done -= 1
        while done < total and not self._exceeds(rounds[done]["tokens"] + self.settings.generation_tokens):
            self._tell(rounds[done], done)
            rounds.once(done + 1, partial(self._step, rounds[done], done + 1))
            done += 1
        last = rounds[done]
        self._tell(last, done)
        fitness = float("inf") if last["fitness"] is None else last["fitness"]
        return Found(tuple(last["genome"]), fitness, done, last["tokens"], last["seconds"], rounds[0]["seconds"])

    def _exceeds(self, tokens: int) -> bool:
        return self.token_budget is not None and tokens > self.token_budget

    def _tell(self, step: dict[str, object], done: int) -> None:
        self.progress(Progress("evolving", done, self.settings.generations, int(str(step["tokens"]))))

    def _begin(self) -> dict[str, object]:
        started = time.perf_counter()
        random = np.random.default_rng([self.seed, 0])
        genomes = self.problem.first(self.settings.initial, random)
        fitness: float | None = None
        tokens = 0
        if len(genomes) > 1:
            measured, [fitness] = self._select(genomes, 1, self.settings.initial_tokens, random)
            tokens = len(genomes) * self.settings.initial_tokens
            genomes = measured
        return _step(genomes[0], fitness, tokens, time.perf_counter() - started)

    def _step(self, before: dict[str, object], number: int) -> dict[str, object]:
        """One generation."""
        started = time.perf_counter()
        random = np.random.default_rng([self.seed, number])
        parent: Genome = tuple(before["genome"])  # type: ignore[arg-type]  # as it was written below
        candidates = self._offspring(parent, random)
        tokens, fitness = int(str(before["tokens"])), before["fitness"]
        stages = list(zip(self.settings.survivors, self.settings.tokens, strict=True))
        for stage, (survivors, size) in enumerate(stages, start=1):
            if stage == len(stages):
                candidates = [*candidates, parent]
            tokens += len(candidates) * size
            candidates, [fitness, *_] = self._select(candidates, survivors, size, random)
        seconds = float(str(before["seconds"])) + time.perf_counter() - started
        return _step(candidates[0], fitness, tokens, seconds)

    def _offspring(self, parent: Genome, random: np.random.Generator) -> list[Genome]:
        found: dict[Genome, None] = {}
        for _ in range(_TRIES * self.settings.offspring):
            child = self.problem.mutate(parent, random)
            if child != parent:
                found[child] = None
            if len(found) == self.settings.offspring:
                break
        return list(found)

    def _select(
        self, candidates: Sequence[Genome], survivors: int, tokens: int, random: np.random.Generator
    ) -> tuple[list[Genome], list[float]]:
        batches = draw_minibatch(self.windows, tokens, random)
        values = self.problem.measure(candidates, batches)
        best = sorted(range(len(candidates)), key=lambda index: values[index])[:survivors]
        return [candidates[index] for index in best], [values[index] for index in best]


def _step(genome: Genome, fitness: object, tokens: int, seconds: float) -> dict[str, object]:
    return {"genome": list(genome), "fitness": fitness, "tokens": tokens, "seconds": round(seconds, 6)}
