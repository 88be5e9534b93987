"""What a run sends to workers: they build the same objectives from it, in every space, or are refused."""

import contextlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin import LevelSettings, Settings, UnitOptions, build_levels, train_profile
from unicuco_plugin.errors import ModelMismatchError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.objectives.executor import InPlace

TINY = Settings(
    tokens=32, seq_length=16, rank_tokens=16, rank_seq_length=16, initial=8, epochs=1, steps=2, pool=8, picks=2,
    starts=0, rerank=1, imitation=1, verify=0,
)  # fmt: skip


class Elsewhere:
    """One worker that knows what it was sent and nothing else; ``before`` may change what is there."""

    def __init__(self, before=lambda: None):
        self.before, self.sent = before, 0

    @contextlib.contextmanager
    def start(self, setup, say):
        sent = pickle.dumps(setup)
        self.sent = len(sent)
        self.before()
        yield InPlace(pickle.loads(sent).open(say), setup.batch)  # noqa: S301 - our own


def facts_of(folder):
    record = json.loads((folder / "profile.json").read_text(encoding="utf8"))
    return {name: value for name, value in record.items() if name not in {"provenance", "digest", "name"}}


@pytest.mark.slow
@pytest.mark.parametrize("space", ["depth", "sublayer", "structured", "sparsity"])
def test_a_worker_that_knows_only_what_it_was_sent_measures_the_same(save_model, text, tmp_path, space):
    dense, units, how = save_model(blocks=3), {}, {}
    if space in {"depth", "sublayer"}:
        how = {"compensation": "linear"}
    if space == "structured":
        units = {"round_to": 8}
    if space == "sparsity":
        windows = torch.randint(4, 128, (4, 16), generator=torch.Generator().manual_seed(1))
        settings = LevelSettings(sparsities=(0.3, 0.6))
        build_levels(find_decoder(load_model(dense)), windows, tmp_path / "levels", name="tiny", settings=settings)
        units = {"levels": tmp_path / "levels"}
    how |= {"space": space, "units": UnitOptions(**units), "calibration": [text], "settings": TINY}
    train_profile(dense, tmp_path / "here", **how)
    workers = Elsewhere()
    train_profile(dense, tmp_path / "there", workers=workers, **how)
    assert facts_of(tmp_path / "there") == facts_of(tmp_path / "here")
    assert workers.sent < 50_000


@pytest.mark.slow
def test_a_worker_that_finds_another_model_is_refused_before_a_journal_is_begun(
    save_model, text, tmp_path, monkeypatch
):
    dense = save_model(blocks=3)
    monkeypatch.chdir(dense.parent)

    def change():
        tiny_model("llama", blocks=3, seed=5).save_pretrained(dense)

    with pytest.raises(ModelMismatchError, match=r"^the objective is for the model with fingerprint .*, got "):
        train_profile(Path(dense.name), tmp_path / "p", calibration=[text], settings=TINY, workers=Elsewhere(change))
    assert not (tmp_path / "p" / "journal.sqlite").exists()
