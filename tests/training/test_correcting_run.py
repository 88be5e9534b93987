"""Training with a compensation in the search: what is measured, said, resumed and refused."""

import json

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from tiny_settings import tiny_settings

from unicuco_plugin.errors import JournalError, StrategyError, UnknownNameError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.profile import RECORD
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.texts.calibration import calibration_hash, load_windows
from unicuco_plugin.training import JOURNAL, train_profile
from unicuco_plugin.training.correcting import find_corrections

TINY = tiny_settings(initial=8, target="log")
RIDGE = {"settings": TINY, "compensation": "ridge"}


@pytest.fixture(scope="module")
def dense(save_model):
    return save_model()


@pytest.fixture(scope="module")
def trained(dense, text, tmp_path_factory):
    output = tmp_path_factory.mktemp("profiles") / "corrected"
    return output, train_profile(dense, output, calibration=[text], **RIDGE)


def facts_of(folder):
    record = json.loads((folder / RECORD).read_text(encoding="utf8"))
    return {name: value for name, value in record.items() if name not in {"provenance", "digest", "name"}}


@pytest.mark.slow
def test_what_the_archive_says_is_of_the_corrected_model_on_windows_it_was_not_solved_from(trained, text, tmp_path):
    windows = load_windows([text], tiny_tokenizer(tmp_path), count=2 + 2 + 4 + 32, length=16, seed=0)
    rank, _, confirm, solve = windows.split([2, 2, 4, 32])
    decoder = find_decoder(tiny_model("llama"))
    corrections = find_corrections("ridge", decoder, solve)
    evaluators = [BlockEvaluator(decoder, lot, corrections=corrections) for lot in (rank, confirm)]
    plain = BlockEvaluator(decoder, rank)
    better = 0
    for entry in trained[1].record.archive:
        drop = [int(index) for index in entry.strategy.split(",")]
        said = [entry.rank if entry.measured else None, entry.confirmed and entry.confirmed.mean]
        for evaluator, value in zip(evaluators, said, strict=True):
            if value is not None:
                assert evaluator.evaluate([drop])[0].value == pytest.approx(value, rel=1e-4)
        better += entry.rank < plain.evaluate([drop])[0].value
    assert better > len(trained[1].record.archive) / 2
    spent = trained[1].provenance
    assert spent["compensation"] == {"name": "ridge", "windows": calibration_hash(solve), "tokens": 32 * 16}
    measured = 32 * sum(entry.measured for entry in trained[1].record.archive)
    assert spent["evaluation_tokens"] >= measured + 32 * 16


@pytest.mark.slow
def test_answers_name_the_compensation_and_are_read_back(trained):
    answer = trained[1].answer(sparsity=0.3)
    assert answer.compensation == "ridge"
    assert Strategy.from_dict(json.loads(answer.to_json())) == answer


@pytest.mark.slow
def test_broken_off_and_resumed_it_ends_as_the_unbroken_run(trained, dense, text, tmp_path):
    def stop(event):
        if event.stage == "first strategies" and event.done >= 4:
            raise KeyboardInterrupt

    output = tmp_path / "corrected"
    settings = TINY.model_copy(update={"batch": 3})
    with pytest.raises(KeyboardInterrupt):
        train_profile(dense, output, calibration=[text], progress=stop, **RIDGE | {"settings": settings})
    train_profile(dense, output, calibration=[text], resume=True, **RIDGE | {"settings": settings})
    assert facts_of(output) == facts_of(trained[0])


@pytest.mark.slow
@pytest.mark.parametrize("other", [None, "none", "linear"])
def test_a_journal_of_another_compensation_is_not_resumed(trained, dense, text, other):
    with pytest.raises(JournalError, match=r"compensation"):
        train_profile(dense, trained[0], calibration=[text], resume=True, **RIDGE | {"compensation": other})


def test_none_is_no_compensation():
    assert find_corrections("none", find_decoder(tiny_model("llama")), None) is None


@pytest.mark.parametrize(("family", "name"), [("gemma2", "ridge"), ("opt", "scale")])
def test_a_family_that_cannot_be_corrected_is_refused_and_another_is_not(family, name):
    windows = torch.randint(4, 128, (4, 8), generator=torch.Generator().manual_seed(0))
    assert find_corrections(name, find_decoder(tiny_model("llama")), windows).name == name
    with pytest.raises(UnsupportedModelError, match="can be folded in"):
        find_corrections(name, find_decoder(tiny_model(family)), windows)


def test_a_model_that_cannot_be_corrected_is_refused_before_there_is_a_journal(text, tmp_path):
    tiny_model("gemma2").save_pretrained(tmp_path / "dense")
    tiny_tokenizer(tmp_path / "dense")
    with pytest.raises(UnsupportedModelError, match="no correction can be folded in"):
        train_profile(tmp_path / "dense", tmp_path / "out", calibration=[text], **RIDGE)
    assert not (tmp_path / "out" / JOURNAL).exists()


@pytest.mark.parametrize(
    ("space", "name", "error", "message"),
    [
        (
            "heights",
            "ridge",
            StrategyError,
            "compensation ridge corrects what leaves, in the spaces 'depth', 'sublayer",
        ),
        ("depth", "a b", StrategyError, "compensation must be named by letters, digits, '.', '_' and '-', got 'a b'"),
        ("depth", "hope", UnknownNameError, "compensation must be one of bias, linear, none, ridge, scale, seq"),
        ("depth", "sequential", StrategyError, "compensation sequential is solved anew behind all that one model has"),
        ("structured", "sequential", StrategyError, "compensation sequential is solved anew behind all that one model"),
    ],
)
def test_what_cannot_be_is_refused_before_a_weight_is_read(tmp_path, space, name, error, message):
    with pytest.raises(error, match=f"^{message}"):
        train_profile(tmp_path / "nowhere", tmp_path / "out", space=space, compensation=name)
