"""The picture of a front: what is on its axes, and that it is written whole or not at all."""

from pathlib import Path

import pytest
from hostile_names import NAMES
from test_front import strategy

from unicuco_plugin.errors import ExportError
from unicuco_plugin.report import plot
from unicuco_plugin.report.plot import plot_front

UNITS = [f"model.layers.{index}" for index in range(4)]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw and return the figure."""
    figures = []
    draw = plot._draw
    monkeypatch.setattr(plot, "_draw", lambda *arguments: figures.append(draw(*arguments)) or figures[-1])

    def run(front, units=UNITS):
        plot_front(front, units, tmp_path / "front.png", title="t")
        return figures[-1]

    return run


@pytest.mark.slow
def test_whole_blocks_are_counted_and_measured_ones_are_told_apart(drawn):
    left, right = drawn([strategy((1,)), strategy((1, 2), measured=False)]).axes
    assert left.get_xlabel() == right.get_xlabel() == "blocks removed, of 4"
    assert left.get_ylabel() == "divergence from the dense model (nats per token)"
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "measured, with 90 % interval", "predicted, with 90 % interval",
    ]  # fmt: skip
    assert right.collections[0].get_array().reshape(4, 2).tolist() == [[0, 0], [1, 1], [0, 1], [0, 0]]
    assert [label.get_text() for label in right.get_yticklabels()] == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_shares_get_a_scale(drawn):
    front = [strategy(units={"model.layers.0": 0.5}), strategy(units={"model.layers.0": 0.9})]
    left, _, scale = drawn(front).axes
    assert left.get_xlabel() == "sparsity (share of prunable weights removed)"
    assert scale.get_ylabel() == "share of the unit's weights removed"


@pytest.mark.slow
def test_parts_of_blocks_get_a_map_of_blocks_by_parts_at_several_budgets(drawn):
    units = [f"model.layers.{index}.{part}" for index in range(3) for part in ("attn.q", "attn.v", "mlp.up")]
    front = [
        strategy(units={"model.layers.1.attn.q": share, "model.layers.2.mlp.up": share / 2}, sparsity=share)
        for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    ]
    _, *maps, scale = drawn(front, units).axes
    assert [axes.get_title() for axes in maps] == [f"sparsity {share:.2f}" for share in (0.3, 0.4, 0.5, 0.6)]
    last = maps[-1].collections[0].get_array().reshape(3, 3).tolist()
    assert last == [[0, 0, 0], [0.6, 0, 0], [0, 0, 0.3]]
    assert [label.get_text() for label in maps[0].get_xticklabels()] == ["q", "v", "up"]
    assert [label.get_text() for label in maps[0].get_yticklabels()] == ["0", "1", "2"]
    assert scale.get_ylabel() == "share of the unit's weights removed"


def test_an_interval_beside_its_mean_can_be_drawn(drawn):
    drawn([strategy(divergence={"mean": 0.5, "interval90": [0.6, 0.7], "measured": True})])


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ExportError, match="the profile holds no strategy to draw"):
        plot_front([], UNITS, tmp_path / "front.png", title="t")


@pytest.mark.slow
def test_a_picture_is_written_whole_or_not_at_all(drawn, tmp_path, monkeypatch):
    drawn([strategy()])
    older = (tmp_path / "front.png").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ExportError, match="cannot be written: disk full"):
        drawn([strategy()])
    assert [path.name for path in tmp_path.iterdir()] == ["front.png"]
    assert (tmp_path / "front.png").read_bytes() == older


def test_a_picture_that_we_did_not_draw_is_not_replaced(drawn, tmp_path):
    (tmp_path / "front.png").write_bytes(b"\x89PNG\r\n\x1a\n, of a holiday")
    with pytest.raises(ExportError, match="is not a picture of unicuco's; it will not be replaced"):
        drawn([strategy()])
    assert (tmp_path / "front.png").read_bytes() == b"\x89PNG\r\n\x1a\n, of a holiday"


def test_a_picture_that_a_kill_left_half_is_removed_by_the_next(drawn, tmp_path):
    (tmp_path / ".front.png.unicuco-draft-abcd1234").write_bytes(b"half")
    (tmp_path / ".front.png.mine").write_bytes(b"somebody's")
    drawn([strategy()])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".front.png.mine", "front.png"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("pattern", ["{}", "{}.0", "model.{}.1", "model.layers.1.{}"])
def test_names_of_strangers_are_drawn_as_they_are_written(tmp_path, name, pattern):
    units = [pattern.format(name), pattern.format(f"{name}2"), "model.layers.3"]
    front = [strategy(units={units[0]: 0.5})]
    plot_front(front, units, tmp_path / "front.svg", title=name)
