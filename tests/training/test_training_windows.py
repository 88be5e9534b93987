"""Windows of a run: one lot for each purpose, no window in two of them."""

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_tokenizer
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.texts.calibration import calibration_hash, load_windows
from unicuco_plugin.training.source import CalibrationText
from unicuco_plugin.training.windows import draw_windows

SETTINGS = Settings(tokens=64, seq_length=16, rank_tokens=24, rank_seq_length=8, seed=3)


@pytest.fixture(scope="module")
def dense(save_model):
    return save_model(blocks=2)


def drawn(dense, text, tmp_path, *, ranking, settings=SETTINGS):
    decoder = find_decoder(tiny_model("llama", blocks=2))
    return draw_windows(decoder, load_tokenizer(dense), CalibrationText([text]), settings, tmp_path, ranking=ranking)


@pytest.mark.parametrize("ranking", [True, False])
def test_lots_are_cut_from_one_shuffled_whole_in_their_order(dense, text, tmp_path, ranking):
    found = drawn(dense, text, tmp_path, ranking=ranking)
    assert {name: tuple(lot.shape) for name, lot in found.fidelities.items()} == {
        "rank": (3, 8), "rerank": (3, 8), "confirm": (4, 16),
    }  # fmt: skip
    assert len(found.parts) == (8 if ranking else 0)
    count = 18 if ranking else 10
    whole = load_windows([text], load_tokenizer(dense), count=count, length=16, seed=3)
    assert found.source == {"sources": [text], "hash": calibration_hash(whole), "windows": count}
    lots = [found.fidelities["rank"], found.fidelities["rerank"], found.fidelities["confirm"], found.parts]
    for lot, rows in zip(lots, whole.split([3, 3, 4, count - 10]), strict=True):
        assert torch.equal(lot, rows[:, : lot.shape[1]])


def test_nothing_is_drawn_for_a_second_ranking_that_is_not_made(dense, text, tmp_path):
    settings = SETTINGS.model_copy(update={"rerank": 0})
    found = drawn(dense, text, tmp_path, ranking=False, settings=settings)
    assert [len(lot) for lot in found.fidelities.values()] == [3, 0, 4]
    assert found.source["windows"] == 7
