"""Candidates walked block by block: what happens in a block may depend on everything chosen before it."""

import contextlib

import pytest
import torch
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.objectives.prefixes import RUN, SKIP, Change, PrefixWalk, inside

WINDOWS = torch.randint(3, VOCABULARY, (3, 10), generator=torch.Generator().manual_seed(2))
# Blocks that were left out before it decide by how much a block that chooses nothing moves its states.
SHIFTED = [("skip", None, None, None), (None, "skip", None, None), ("skip", "skip", None, None), (None,) * 4]


@pytest.fixture
def runner():
    return BlockRunner(find_decoder(tiny_model("llama", blocks=4)), WINDOWS.shape[1])


def shifting(prefix):
    """Leaves out, or runs the block and adds the number of blocks left out before it."""
    if prefix[-1] == "skip":
        return SKIP
    return Change(lambda block, states: block(states) + prefix.count("skip"))


def walked_by_hand(runner, choices):
    states = runner.embed(WINDOWS)
    for index, choice in enumerate(choices):
        if choice != "skip":
            states = runner.run(index, states) + choices[: index + 1].count("skip")
    return states


def counted(walk, monkeypatch):
    """The blocks that a walk runs, as it runs them."""
    runs = []
    run = PrefixWalk._run
    monkeypatch.setattr(PrefixWalk, "_run", lambda self, i, states: runs.append(i) or run(self, i, states))
    return runs


def test_a_change_sees_every_choice_up_to_its_block_also_where_a_candidate_chooses_nothing(runner):
    walk = PrefixWalk(runner, WINDOWS, shifting, batch_windows=3)
    for choices, final in zip(SHIFTED, walk.finals(SHIFTED), strict=True):
        assert torch.equal(final, walked_by_hand(runner, choices))
    assert len({final.sum().item() for final in walk.finals(SHIFTED)}) == len(SHIFTED)


def test_one_choice_behind_two_prefixes_is_two_nodes_and_behind_one_prefix_one(runner, monkeypatch):
    asked = []
    walk = PrefixWalk(runner, WINDOWS, lambda prefix: asked.append(prefix) or shifting(prefix))
    walk.finals([])
    runs = counted(walk, monkeypatch)
    candidates = [("skip", None, "x", None), (None, "skip", "x", None), ("skip", None, "x", "skip")]
    told = []
    assert walk.count(candidates) == 5
    walk.finals(candidates, told.append)
    assert sorted(runs) == [1, 2, 2, 3, 3]
    assert told == [1] * 5
    assert ("skip", None, "x") in asked
    assert (None, "skip", "x") in asked
    assert walk.count(candidates) == 0


def test_leaving_a_block_out_runs_nothing_tells_nothing_and_keeps_nothing(runner, monkeypatch):
    walk = PrefixWalk(runner, WINDOWS, shifting)
    dense = walk.dense
    runs, told = counted(walk, monkeypatch), []
    last = [(None, None, None, "skip"), (None, None, "skip", "skip")]
    assert walk.count(last) == 0
    finals = walk.finals(last, told.append)
    assert (runs, told, walk._kept_bytes, len(walk._kept)) == ([], [], 0, 0)
    assert finals[0] is walk._states[3]
    assert finals[1] is walk._states[2]
    assert finals[0] is not dense


def test_a_change_says_how_often_it_runs_its_block(runner, monkeypatch):
    twice = Change(lambda block, states: block(block(states)), runs=2)
    walk = PrefixWalk(runner, WINDOWS, lambda prefix: twice if prefix[-1] == "twice" else RUN)
    walk.finals([])
    runs, told = counted(walk, monkeypatch), []
    candidates = [(None, None, "twice", None)]
    assert walk.count(candidates) == 3
    [final] = walk.finals(candidates, told.append)
    assert (runs, told) == ([2, 2, 3], [2, 1])
    states = runner.embed(WINDOWS)
    for index in (0, 1, 2, 2, 3):
        states = runner.run(index, states)
    assert torch.equal(final, states)


def test_a_block_is_changed_inside_its_context_alone(runner):
    events = []

    @contextlib.contextmanager
    def changed():
        events.append("in")
        yield
        events.append("out")

    change = inside(changed)
    assert change.runs == 1
    assert events == []
    assert change.passes(lambda states: events.append("run") or states + 1, 1) == 2
    assert events == ["in", "run", "out"]
