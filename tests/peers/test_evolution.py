"""The search on a separable problem, whose optimum and cost are known, broken off and resumed."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unicuco_plugin.errors import CalibrationError, RequestError
from unicuco_plugin.peers.drop_genomes import DropProblem
from unicuco_plugin.peers.evolution import Evolution, EvolutionSettings
from unicuco_plugin.peers.rounds import Rounds

WINDOWS = torch.zeros(8, 16, dtype=torch.long)
COSTS = [0.9, 0.2, 0.5, 0.1, 0.8, 0.3, 0.7, 0.4, 0.6]
SETTINGS = EvolutionSettings(30, 6, (2, 1), (16, 40), 4, 16)


class Costs:
    """Scores sets by the sum of what is removed; remembers what it was asked and may break."""

    def __init__(self, breaks_at=None):
        self.calls, self.breaks_at = [], breaks_at

    def __call__(self, genomes, windows):
        self.calls.append((list(genomes), windows.numel()))
        if len(self.calls) == self.breaks_at:
            raise KeyboardInterrupt
        return [sum(cost for cost, gone in zip(COSTS, genome, strict=True) if gone) for genome in genomes]


def evolution(costs, settings=SETTINGS, seed=0, **fields):
    return Evolution(DropProblem(len(COSTS), 1, 3, costs), settings, WINDOWS, seed, **fields)


def search(costs, path=None, **fields):
    with Rounds(path, {"test": 1}) as rounds:
        return evolution(costs, **fields).run(rounds)


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_of_a_separable_problem_is_found(seed):
    found = search(Costs(), seed=seed)
    best = min(itertools.combinations(range(9), 3), key=lambda drop: sum(COSTS[i] for i in drop))
    assert tuple(i for i, gone in enumerate(found.genome) if gone) == best == (1, 3, 5)
    assert found.fitness == pytest.approx(0.6)


def test_every_stage_measures_the_survivors_and_the_last_the_parent_too():
    costs = Costs()
    found = search(costs, settings=EvolutionSettings(1, 6, (2, 1), (16, 40), 4, 16))
    # 40 tokens are two windows of 16 and one cut to 8.
    sizes = [(len(genomes), tokens) for genomes, tokens in costs.calls]
    assert sizes == [(4, 16), (6, 16), (3, 32), (3, 8)]
    first = min(costs.calls[0][0], key=lambda g: sum(c for c, gone in zip(COSTS, g, strict=True) if gone))
    assert costs.calls[2][0][-1] == first
    assert first not in costs.calls[1][0]
    assert len(set(costs.calls[1][0])) == 6
    assert found.tokens == 4 * 16 + 6 * 16 + 3 * 40 == 64 + SETTINGS.generation_tokens


def test_a_parent_never_gets_worse_where_measurements_are_exact():
    with Rounds(None, {}) as rounds:
        evolution(Costs()).run(rounds)
        fitness = [rounds[i]["fitness"] for i in range(len(rounds))]
    assert fitness == sorted(fitness, reverse=True)


@pytest.mark.parametrize("breaks_at", [1, 2, 5, 11])
def test_a_search_that_is_broken_off_goes_on_as_the_unbroken_one(tmp_path, breaks_at):
    unbroken = search(Costs())
    with pytest.raises(KeyboardInterrupt):
        search(Costs(breaks_at), tmp_path / "j")
    resumed = Costs()
    found = search(resumed, tmp_path / "j")
    assert (found.genome, found.fitness, found.tokens) == (unbroken.genome, unbroken.fitness, unbroken.tokens)
    done_before = max(0, (breaks_at - 2) // 3) + (breaks_at > 1)
    assert len(resumed.calls) == 1 + 3 * 30 - (0 if done_before == 0 else 1 + 3 * (done_before - 1))
    assert search(Costs(breaks_at=1), tmp_path / "j") == found


def test_a_longer_search_begins_as_the_shorter_one_and_the_shorter_ends_in_the_longer(tmp_path):
    short = EvolutionSettings(3, 6, (2, 1), (16, 40), 4, 16)
    alone = search(Costs(), settings=short)
    search(Costs(), tmp_path / "j", settings=short)
    assert search(Costs(), tmp_path / "j").genome == search(Costs()).genome
    found = search(Costs(breaks_at=1), tmp_path / "j", settings=short)
    assert (found.genome, found.tokens, found.generations) == (alone.genome, alone.tokens, 3)


def test_a_token_budget_ends_it_before_it_would_be_exceeded(tmp_path):
    per_generation = SETTINGS.generation_tokens
    found = search(Costs(), token_budget=64 + 3 * per_generation + per_generation - 1)
    assert (found.generations, found.tokens) == (3, 64 + 3 * per_generation)
    search(Costs(), tmp_path / "j")
    again = search(Costs(breaks_at=1), tmp_path / "j", token_budget=found.tokens)
    assert again.genome == found.genome
    assert again.tokens == found.tokens


def test_a_budget_below_the_first_parent_and_a_pool_below_a_minibatch_are_refused():
    with pytest.raises(RequestError, match=r"^token_budget must be at least 64 for the first parent, got 63$"):
        search(Costs(), token_budget=63)
    with pytest.raises(CalibrationError, match=r"^windows must hold at least 200 tokens"):
        search(Costs(), settings=EvolutionSettings(1, 2, (1,), (200,)))


def test_progress_tells_generations_and_tokens():
    told = []
    search(Costs(), progress=told.append)
    assert [step.done for step in told] == list(range(31))
    assert told[0].tokens == 64


def test_a_space_with_few_neighbours_gives_fewer_offspring():
    sizes = []

    def score(genomes, windows):
        sizes.append((len(genomes), windows.numel()))
        return [float(genome[0]) for genome in genomes]

    with Rounds(None, {}) as rounds:
        problem = DropProblem(3, 1, 1, score)
        found = Evolution(problem, EvolutionSettings(2, 6, (2, 1), (16, 16), 9, 16), WINDOWS, 0).run(rounds)
    assert found.genome[0] == 0
    # Of one among three there are three genomes, and two that differ from the parent.
    assert [count for count, _ in sizes] == [3, 2, 3, 2, 3]


CHILD = """
import os, signal, sys
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from pathlib import Path
from test_evolution import Costs, search
class Killed(Costs):
    def __call__(self, genomes, windows):
        if len(self.calls) == 14:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(genomes, windows)
search(Killed(), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_search_that_is_killed_resumes_to_the_same_end(tmp_path):
    here = Path(__file__).resolve().parent
    source = here.parents[1] / "src"
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "j"), str(here), str(here.parent)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)
    assert done.returncode == -9, done.stderr.decode()
    resumed = Costs()
    found, unbroken = search(resumed, tmp_path / "j"), search(Costs())
    assert (found.genome, found.fitness, found.tokens) == (unbroken.genome, unbroken.fitness, unbroken.tokens)
    # 14 calls: the first parent, four generations of three, and one call that is made again.
    assert len(resumed.calls) == 3 * 26


def test_everyone_in_a_stage_reads_one_minibatch_and_every_stage_and_generation_another():
    read = []

    def score(genomes, windows):
        read.append((len(genomes), windows.flatten().tolist()))
        return [float(sum(genome[:3])) for genome in genomes]

    pool = torch.arange(40 * 16).reshape(40, 16)
    settings = EvolutionSettings(4, 6, (2, 1), (32, 64), 4, 16)
    with Rounds(None, {}) as rounds:
        Evolution(DropProblem(9, 1, 3, score), settings, pool, 0).run(rounds)
    # The parent is among the three of every last stage, so it is measured on what its rivals are.
    assert [(count, len(ids)) for count, ids in read] == [(4, 16), *[(6, 32), (3, 64)] * 4]
    lots = [tuple(ids) for _, ids in read]
    assert len(set(lots)) == len(lots)
    # Whole windows of the pool, none twice in a minibatch.
    for ids in lots:
        assert len(set(ids)) == len(ids)
        assert all(first % 16 == 0 for first in ids[::16])
