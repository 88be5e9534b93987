"""How often the host waits for the device, and what happens when its memory ends."""

import pytest
import torch
from other_device import DEVICE
from tiny import tiny_model

from unicuco_plugin.errors import EvaluationError
from unicuco_plugin.evaluation.comparison import compare_models
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.measuring import RANK, JournaledMeasure
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.record import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.objectives import prefixes
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.objectives.executor import InPlace, Objectives
from unicuco_plugin.objectives.objective import ObjectiveRequest
from unicuco_plugin.objectives.sensitivity import measure_slopes, uniform_plan
from unicuco_plugin.plugins.manager import make_objective
from unicuco_plugin.training import UnitOptions
from unicuco_plugin.training.subjects.find import find_subject

FINGERPRINT = "0" * 16 + "." + "0" * 16
SPACES = ("depth", "sublayer", "structured", "sparsity")


@pytest.fixture
def subject(windows, tmp_path, monkeypatch):
    """A subject over a model on the device, with its payload; strategies of it, and an objective."""
    monkeypatch.setattr("unicuco_plugin.levels.store.Levels.check_model", lambda *_: None)

    def make(space, *, blocks=2, text=windows):
        units = UnitOptions()
        if space == "structured":
            units = UnitOptions(round_to=16)
        if space == "sparsity":
            folder, settings = tmp_path / f"levels-{blocks}", LevelSettings(sparsities=(0.3, 0.7))
            if not folder.exists():
                build_levels(
                    find_decoder(tiny_model("llama", blocks=blocks)), windows, folder, name="tiny", settings=settings
                )
            units = UnitOptions(levels=folder)
        decoder = find_decoder(tiny_model("llama", blocks=blocks).to(DEVICE))
        found = find_subject(space, decoder, FINGERPRINT, units)
        payload = None if found.prepare is None else found.prepare(windows)
        X = found.space.first(40, torch.Generator().manual_seed(0)).unique(dim=0)[:6]
        request = ObjectiveRequest(decoder, found.space, text, levels=found.levels, payload=payload)
        return found.space, X, make_objective("divergence", request)

    return make


@pytest.mark.parametrize("space", SPACES)
def test_waits_do_not_grow_with_blocks_windows_or_linears(subject, traffic, windows, space):
    counts = []
    for blocks, text in ((2, windows), (4, windows.repeat(3, 1))):
        _, X, objective = subject(space, blocks=blocks, text=text)
        objective.evaluate(X[:1])
        traffic.waits.clear()
        objective.evaluate(X)
        counts.append(traffic.count)
    # One for 64 runs of blocks, whether they are finite, and one for the values; one of each candidate for its biases,
    # or for Transformers' own look at the positions when tokens are embedded.
    assert max(counts) <= 4 + len(X), traffic.waits


def test_slopes_wait_once_a_window_beside_the_first_look_at_the_model(traffic, windows, tmp_path):
    decoder = find_decoder(tiny_model("llama", blocks=2))
    levels = build_levels(decoder, windows, tmp_path / "levels", name="tiny", settings=LevelSettings(sparsities=(0.5,)))
    decoder.model.to(DEVICE)
    traffic.waits.clear()
    windows = windows.repeat(3, 1)
    measure_slopes(BlockRunner(decoder, windows.shape[1]), levels, windows, uniform_plan(levels, 1))
    look = ("levels/linear", "models/blocks/block_call")
    besides = sum(count for (_, where), count in traffic.waits.items() if where.startswith(look))
    assert traffic.count - besides <= len(windows) + 5, traffic.waits


@pytest.mark.parametrize("positions", [4, 16])
def test_a_comparison_waits_for_each_window_and_not_for_its_positions(traffic, windows, positions):
    model = tiny_model("llama", blocks=2).to(DEVICE)
    traffic.waits.clear()
    compare_models(model, model, windows, positions=positions)
    assert traffic.count <= 3 * len(windows) + 1, traffic.waits  # two of each window are Transformers' own


@pytest.mark.parametrize("space", SPACES)
def test_a_batch_without_room_is_halved_and_every_value_stays(subject, traffic, tmp_path, space):
    def measured(room, folder, say=lambda _: None):
        found, X, objective = subject(space, blocks=4)
        traffic.room, traffic.used, traffic.peak = room, 0, 0
        with Journal.open(folder, {}, resume=False) as journal:
            measure = JournaledMeasure(journal, found, InPlace(Objectives({RANK: lambda: objective}, say), len(X)))
            rows = measure(RANK, X, lambda _: None)
        return [row.per_window for row in rows], traffic.peak

    plenty = 10**12
    whole, most = measured(plenty, tmp_path / "whole")
    said = []
    halved, peak = measured(most - 1, tmp_path / "halved", said.append)
    assert halved == whole
    assert peak < most
    assert said[0].startswith("out of memory: strategies are measured 3 at a time")
    with pytest.raises(EvaluationError, match=r"^one strategy alone does not fit the memory of the device"):
        measured(64, tmp_path / "none")


def test_dense_states_wait_on_the_host_where_the_device_has_little_room(windows, monkeypatch):
    decoder = find_decoder(tiny_model("llama", blocks=3).to(DEVICE))
    candidates = [[1], [0, 2], [2], []]
    expected = [value.per_window for value in BlockEvaluator(decoder, windows).evaluate(candidates)]
    monkeypatch.setattr(prefixes, "spare_memory", lambda _: 250.0)
    evaluator = BlockEvaluator(decoder, windows)
    assert [value.per_window for value in evaluator.evaluate(candidates)] == expected
    assert {states.device.type for states in evaluator._walk._states} == {"cpu"}
    assert {states.device.type for states in evaluator._walk._kept.values()} == {DEVICE.type}
