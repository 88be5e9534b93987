import pytest
from pydantic import ValidationError

from unicuco_plugin.search.settings import PRESETS, Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1), ("tokens", 1), ("seq_length", 1), ("rank_tokens", 0), ("rank_seq_length", 1), ("rerank", -1),
        ("focus", 0.0), ("focus", 1.1), ("initial", 1), ("epochs", -1), ("steps", -1), ("learning_rate", 0.0),
        ("preferences", 0), ("pool", 0), ("picks", 0), ("bound", "middle"), ("kappa", -0.1), ("target", "sqrt"),
        ("quality", "rank"), ("starts", -1), ("direction", "backward"), ("batch", 0), ("batch_windows", 0),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValidationError) as caught:
        Settings(**{name: value})
    assert {entry["loc"][0] for entry in caught.value.errors()} == {name}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": 100}, "tokens must be a multiple of seq_length = 512, got 100"),
        ({"rank_seq_length": 300}, "rank_tokens must be a multiple of rank_seq_length = 300, got 1024"),
    ],
)
def test_tokens_that_are_not_whole_windows_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Settings(**fields)


def test_unknown_settings_and_changes_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Settings(epoch=3)
    with pytest.raises(ValidationError, match="frozen"):
        Settings().epochs = 3


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_says_what_it_is(name):
    assert Settings.model_fields[name].description


def test_the_default_preset_is_the_defaults():
    assert PRESETS["default"] == Settings()


def test_the_thorough_preset_ranks_on_windows_like_those_that_confirm():
    thorough = PRESETS["thorough"]
    assert (thorough.rank_seq_length, thorough.rank_tokens) == (thorough.seq_length, thorough.tokens)
    assert thorough == Settings(rank_tokens=2048, rank_seq_length=512)


def test_the_papers_preset_has_the_papers_numbers():
    paper = PRESETS["paper"]
    assert (paper.epochs, paper.steps, paper.pool, paper.picks, paper.learning_rate) == (50, 1000, 2240, 10, 1e-3)
    assert (paper.tokens, paper.rank_tokens, paper.target, paper.quality) == (524288, 524288, "raw", "raw")
    assert not paper.neighbours
    assert paper.rerank == 0


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_returns_from_json(name):
    assert Settings.model_validate_json(PRESETS[name].model_dump_json()) == PRESETS[name]


def test_a_journal_from_before_a_setting_came_resumes_without_it():
    assert "negligible" not in Settings().header
    assert Settings(negligible=0.005).header["negligible"] == 0.005
    later = {"negligible", "lag"}
    assert Settings().header == {name: value for name, value in Settings().model_dump().items() if name not in later}
