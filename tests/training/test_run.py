"""Training from a checkpoint and a text to a profile, broken off in every way."""

import contextlib
import importlib.metadata
import json
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import killable_training
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from tiny_settings import tiny_settings
from zoo.families import save

from unicuco_plugin.answering import load_profile
from unicuco_plugin.errors import CalibrationError, JournalError, ProfileError, UnknownNameError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.objectives.specification import ObjectiveSpec
from unicuco_plugin.plugins.objective import Site, build_objective
from unicuco_plugin.profile import RECORD
from unicuco_plugin.texts.calibration import calibration_hash, load_windows
from unicuco_plugin.texts.selfcalibration import own_cache
from unicuco_plugin.training import JOURNAL, ModelSource, makers, train_profile

TINY = tiny_settings(target="log")
KILLS = 20


@pytest.fixture(autouse=True)
def no_installed_plugins(monkeypatch):
    monkeypatch.setenv("UNICUCO_DISABLE_PLUGINS", "1")


@pytest.fixture(scope="module")
def dense(save_model):
    return save_model()


@pytest.fixture(scope="module")
def trained(dense, text, tmp_path_factory):
    output = tmp_path_factory.mktemp("profiles") / "tiny-depth"
    return output, train_profile(dense, output, calibration=[text], settings=TINY, command="unicuco train …")


def facts_of(folder):
    """Everything a profile says but how long it took and how it was asked for."""
    record = json.loads((folder / RECORD).read_text(encoding="utf8"))
    return {name: value for name, value in record.items() if name not in {"provenance", "digest", "name"}}


@pytest.mark.slow
def test_a_profile_is_trained_from_a_checkpoint_and_a_text_file(trained):
    output, profile = trained
    assert profile.name == "tiny-depth"
    assert profile.units == tuple(f"model.layers.{i}" for i in range(6))
    assert [len(strategy.units) for strategy in profile.front()] == [1, 2, 3, 4, 5]
    assert all(strategy.divergence.measured for strategy in load_profile(output).front())


@pytest.mark.slow
def test_its_model_sizes_and_name_are_the_checkpoints(trained, dense):
    _, profile = trained
    model = tiny_model("llama")
    assert profile.model.fingerprint == str(fingerprint(model))
    assert profile.model.name == "dense-model"
    assert profile.record.sizes.total_params == sum(p.numel() for p in model.parameters())
    assert profile.unit_params == (sum(p.numel() for p in model.model.layers[0].parameters()),) * 6


@pytest.mark.slow
def test_bytes_are_the_checkpoints_whatever_it_is_measured_in(text, tmp_path):
    half = tmp_path / "half"
    tiny_model("llama").to(torch.bfloat16).save_pretrained(half)
    tiny_tokenizer(half)
    source = ModelSource(half, dtype="float32")
    sizes = train_profile(source, tmp_path / "p", calibration=[text], settings=TINY).record.sizes
    assert sizes.dtype == "bfloat16"
    written = (half / "model.safetensors").stat().st_size
    assert written <= sizes.total_bytes <= 1.01 * written


@pytest.mark.slow
def test_every_divergence_of_the_archive_is_the_evaluators_on_windows_of_its_own(trained, text, tmp_path):
    _, profile = trained
    windows = load_windows([text], tiny_tokenizer(tmp_path), count=2 + 2 + 4, length=16, seed=0)
    lots = dict(zip(("rank", "reranked", "confirmed"), windows.split([2, 2, 4]), strict=True))
    decoder = find_decoder(tiny_model("llama"))
    evaluators = {name: BlockEvaluator(decoder, part) for name, part in lots.items()}
    for entry in profile.record.archive:
        drop = [int(index) for index in entry.strategy.split(",")]
        said = {"reranked": entry.reranked, "confirmed": entry.confirmed and entry.confirmed.mean}
        said |= {"rank": entry.rank} if entry.measured else {}
        for name, value in said.items():
            if value is not None:
                assert evaluators[name].evaluate([drop])[0].value == pytest.approx(value, rel=1e-4)


def test_intervals_of_confirmed_strategies_are_students_over_windows(trained, text, tmp_path):
    from scipy import stats

    output, profile = trained
    with contextlib.closing(sqlite3.connect(output / JOURNAL)) as connection:
        count = connection.execute("SELECT count(*) FROM measurements WHERE fidelity = 'confirm'").fetchone()[0]
    confirmed = [entry for entry in profile.record.archive if entry.confirmed]
    assert len(confirmed) == count == 5
    windows = load_windows([text], tiny_tokenizer(tmp_path), count=8, length=16, seed=0)[4:]
    evaluator = BlockEvaluator(find_decoder(tiny_model("llama")), windows)
    for entry in confirmed:
        [found] = evaluator.evaluate([[int(index) for index in entry.strategy.split(",")]])
        low, high = stats.t.interval(0.9, 3, found.value, stats.sem(found.per_window))
        assert entry.confirmed.interval90 == pytest.approx((max(low, 0.0), high), rel=1e-3, abs=1e-6)


def test_the_provenance_says_how_it_was_made(trained, text, tmp_path):
    output, profile = trained
    provenance = profile.provenance
    with contextlib.closing(sqlite3.connect(output / JOURNAL)) as connection:
        tokens = connection.execute("SELECT sum(tokens) FROM measurements").fetchone()[0]
    evaluations = provenance["evaluations"]
    assert provenance["evaluation_tokens"] == tokens
    assert tokens == 32 * (evaluations["rank"] + evaluations["rerank"]) + 64 * evaluations["confirm"]
    assert provenance["settings"] == TINY.model_dump(mode="json")
    assert (provenance["command"], provenance["seed"], provenance["interrupted"]) == ("unicuco train …", 0, False)
    assert provenance["versions"]["torch"] == importlib.metadata.version("torch")
    windows = load_windows([text], tiny_tokenizer(tmp_path), count=8, length=16, seed=0)
    assert provenance["calibration"]["hash"] == calibration_hash(windows)
    assert provenance["calibration"]["windows"] == 8
    assert 0.0 < provenance["evaluation_seconds"] < provenance["seconds"]


def test_training_leaves_a_profile_and_a_journal_and_nothing_half_made(trained):
    output, _ = trained
    names = {path.name for path in output.iterdir()}
    assert {RECORD, JOURNAL} <= names
    assert len(names) <= 5  # the record, two tensor files, the journal and its lock
    assert [path.name for path in output.parent.iterdir()] == ["tiny-depth"]


@pytest.mark.slow
def test_the_same_arguments_give_the_same_profile(trained, dense, text, tmp_path):
    torch.manual_seed(7)
    train_profile(dense, tmp_path / "again", calibration=[text], settings=TINY)
    assert facts_of(tmp_path / "again") == facts_of(trained[0])


@pytest.mark.slow
def test_resuming_a_finished_run_measures_nothing_and_changes_nothing(trained, dense, text, monkeypatch):
    output, _ = trained
    before = facts_of(output)
    monkeypatch.setattr(makers, "build_objective", lambda *_: pytest.fail("nothing is left to measure"))
    train_profile(dense, output, calibration=[text], settings=TINY, resume=True)
    assert facts_of(output) == before


@pytest.mark.slow
def test_every_measurement_can_be_made_again_from_the_specification_of_its_objective(
    dense, text, tmp_path, monkeypatch
):
    sent = {}

    def spy(spec, site, windows):
        sent[spec.windows] = (json.dumps(spec.to_dict()), windows)
        return build_objective(spec, site, windows)

    monkeypatch.setattr(makers, "build_objective", spy)
    profile = train_profile(dense, tmp_path / "p", calibration=[text], settings=TINY)
    assert len(sent) == 3
    with contextlib.closing(sqlite3.connect(tmp_path / "p" / JOURNAL)) as journal:
        rows = journal.execute("SELECT fidelity, key, value FROM measurements ORDER BY number").fetchall()
    assert {fidelity for fidelity, *_ in rows} == {"rank", "rerank", "confirm"}
    fidelities = dict(zip(["rank", "rerank", "confirm"], sent.values(), strict=True))
    for fidelity, (data, windows) in fidelities.items():
        spec = ObjectiveSpec.from_dict(json.loads(data))
        objective = build_objective(spec, Site.open(spec, find_decoder(load_model(dense))), windows)
        measured = {key: value for name, key, value in rows if name == fidelity}
        X = torch.stack([profile.search_space.parse(key) for key in measured])
        assert [struct.pack("<d", e.value) for e in objective.evaluate(X)] == list(measured.values())


def test_a_profile_is_not_overwritten_unless_asked(trained, dense, text):
    output, _ = trained
    before = (output / RECORD).read_bytes()
    with pytest.raises(ProfileError) as caught:
        train_profile(dense, output, calibration=[text], settings=TINY)
    assert str(caught.value) == (
        f"output {output} already holds profile.json and journal.sqlite; pass --resume to continue that run, "
        "--overwrite to replace it, or choose another output"
    )
    assert (output / RECORD).read_bytes() == before


@pytest.mark.slow
def test_overwriting_forgets_the_old_run(dense, text, tmp_path):
    train_profile(dense, tmp_path / "p", calibration=[text], settings=TINY)
    other = TINY.model_copy(update={"seed": 5})
    train_profile(dense, tmp_path / "p", calibration=[text], settings=other, overwrite=True)
    train_profile(dense, tmp_path / "q", calibration=[text], settings=other)
    assert facts_of(tmp_path / "p") == facts_of(tmp_path / "q")


@pytest.mark.slow
def test_a_profile_may_be_written_beside_the_models_own_weights(save_model, text):
    model = save_model()
    before = (model / "model.safetensors").read_bytes()
    train_profile(model, model, calibration=[text], settings=TINY)
    assert (model / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": TINY.model_copy(update={"epochs": 2})}, r"belongs to other arguments: epochs was 1, is now 2;"),
        ({"settings": TINY.model_copy(update={"seed": 1})}, r"calibration was .* seed was 0, is now 1;"),
        ({"model": {"dtype": "bfloat16"}}, r'dtype was "float32", is now "bfloat16";'),
        ({"calibration": ()}, r"belongs to other arguments: calibration was "),
    ],
    ids=["settings", "seed", "dtype", "text"],
)
def test_resuming_with_other_arguments_is_refused(trained, dense, text, changes, message):
    output, _ = trained
    before = facts_of(output)
    arguments = {"calibration": [text], "settings": TINY} | changes
    model = ModelSource(dense, **arguments.pop("model", {}))
    with pytest.raises(JournalError, match=message):
        train_profile(model, output, resume=True, **arguments)
    assert facts_of(output) == before


def test_resuming_with_another_model_is_refused(save_model, trained, text):
    other = save_model(seed=1)
    with pytest.raises(JournalError, match=r"belongs to other arguments: model was "):
        train_profile(other, trained[0], calibration=[text], settings=TINY, resume=True)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"resume": True, "overwrite": True}, (JournalError, r"^resume and overwrite exclude each other: ")),
        ({"settings": TINY.model_copy(update={"scalarization": "sum"})}, (UnknownNameError, r"got 'sum'$")),
        (
            {"space": "height"},
            (UnknownNameError, r"^space must be one of compound, .*, sublayer; got 'height'$"),
        ),
        ({"objective": "beauty"}, (UnknownNameError, r"^objective must be one of divergence; got 'beauty'$")),
        ({"calibration": ["nowhere.txt"]}, (CalibrationError, r"nowhere\.txt does not exist")),
    ],
    ids=["both flags", "scalarization", "space", "objective", "text"],
)
def test_arguments_that_cannot_be_met_are_refused(dense, text, tmp_path, changes, refusal):
    arguments = {"calibration": [text], "settings": TINY} | changes
    with pytest.raises(refusal[0], match=refusal[1]):
        train_profile(dense, tmp_path / "p", **arguments)
    assert not (tmp_path / "p" / RECORD).exists()


def test_blocks_that_hand_on_more_than_states_are_refused_before_text_is_read(tmp_path):
    save("glm_moe_dsa", tmp_path / "dense")
    with pytest.raises(UnsupportedModelError, match="cannot be run one by one"):
        train_profile(tmp_path / "dense", tmp_path / "p", space="sublayer", calibration=["nowhere.txt"], settings=TINY)


def test_an_output_that_is_a_file_is_refused(dense, tmp_path):
    (tmp_path / "p").touch()
    with pytest.raises(ProfileError, match=f"^output must be a folder, got the file {tmp_path}/p$"):
        train_profile(dense, tmp_path / "p", settings=TINY)


@pytest.mark.slow
def test_without_text_the_model_writes_its_own_and_a_resumed_run_reads_it_back(dense, tmp_path):
    first = train_profile(dense, tmp_path / "p", settings=TINY)
    assert first.provenance["calibration"]["sources"] == ["self-generated"]
    cached = list((tmp_path / "p" / "calibration").iterdir())
    assert len(cached) == 1
    before = facts_of(tmp_path / "p")
    train_profile(dense, tmp_path / "p", settings=TINY, resume=True)
    assert facts_of(tmp_path / "p") == before
    assert list((tmp_path / "p" / "calibration").iterdir()) == cached


@pytest.mark.slow
def test_ctrl_c_leaves_a_profile_that_answers_and_resuming_completes_it(trained, dense, text, tmp_path):
    def interrupt(progress):
        if progress.stage == "training StratNet":
            raise KeyboardInterrupt

    output = tmp_path / "p"
    # The first time the network is not trained yet, and nothing can be told.
    with pytest.raises(KeyboardInterrupt):
        train_profile(dense, output, calibration=[text], settings=TINY, progress=interrupt)
    assert not (output / RECORD).exists()

    def later(progress):
        if progress.stage == "epoch 1 of 1":
            raise KeyboardInterrupt

    early = train_profile(dense, output, calibration=[text], settings=TINY, progress=later, resume=True)
    assert early.provenance["interrupted"]
    strategy = early.answer(sparsity=0.5)
    assert len(strategy.units) == 3
    assert not strategy.divergence.measured
    train_profile(dense, output, calibration=[text], settings=TINY, resume=True)
    assert facts_of(output) == facts_of(trained[0])


def test_two_runs_on_one_output_do_not_mix(dense, text, tmp_path):
    from unicuco_plugin.journal.journal import Journal

    output = tmp_path / "p"
    with Journal.open(output / JOURNAL, {}, resume=False), pytest.raises(JournalError, match="in use by another"):
        train_profile(dense, output, calibration=[text], settings=TINY, resume=True)


@pytest.mark.slow
def test_both_directions_of_divergence_can_be_trained(dense, text, tmp_path):
    settings = TINY.model_copy(update={"direction": "reverse", "epochs": 0, "rerank": 0})
    profile = train_profile(dense, tmp_path / "p", calibration=[text], settings=settings)
    assert profile.provenance["settings"]["direction"] == "reverse"


class Server:
    """Starts training children in a warm process, and kills them."""

    def __init__(self, model, text):
        script = Path(killable_training.__file__)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(model), text],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"
        self.errors = []
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()

    def run(self, *, kill_after=None, **job):
        """Run one job; returns its exit status and how long it ran."""
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        started = time.monotonic()
        if kill_after is not None:
            timer = threading.Timer(kill_after, self._kill, (child,))
            timer.start()
        status = int(self.process.stdout.readline())
        if kill_after is not None:
            timer.cancel()
            timer.join()
        return status, time.monotonic() - started

    @staticmethod
    def _kill(child):
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.kill(child, signal.SIGKILL)

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture
def server(save_model, text):
    served = Server(save_model(blocks=8), text)
    yield served
    served.close()


@pytest.mark.slow
def test_killed_at_twenty_random_moments_and_resumed_it_ends_as_the_unbroken_run_does(server, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    logs = {output: tmp_path / f"{output.name}.log" for output in (whole, broken)}
    job = {"output": str(whole), "seed": 3, "resume": False, "log": str(logs[whole])}
    status, seconds = server.run(**job)
    assert status == 0, server.errors
    chance = random.Random(0)  # noqa: S311
    job |= {"output": str(broken), "resume": True, "log": str(logs[broken])}
    statuses = []
    for _ in range(KILLS):
        statuses.append(server.run(**job, kill_after=chance.uniform(0.0, 0.95 * seconds))[0])
        assert statuses[-1] in {-signal.SIGKILL, 0}, server.errors
    assert statuses.count(-signal.SIGKILL) >= KILLS // 2
    assert server.run(**job)[0] == 0, server.errors

    assert facts_of(broken) == facts_of(whole)  # archive, front, and the digests of both networks' tensors
    measured, unbroken = (logs[output].read_text(encoding="utf8").count("\n") for output in (broken, whole))
    assert unbroken > 150
    assert unbroken <= measured <= unbroken + killable_training.SETTINGS["batch"] * statuses.count(-signal.SIGKILL)


def test_a_model_of_one_block_is_refused(save_model, tmp_path, text):
    model = save_model(blocks=1)
    with pytest.raises(UnsupportedModelError, match=r"^LlamaForCausalLM: a profile needs two or more blocks, got 1$"):
        train_profile(model, tmp_path / "profile", calibration=[text], settings=TINY)


def test_an_unknown_objective_is_refused_before_there_is_a_journal(dense, text, tmp_path):
    with pytest.raises(UnknownNameError, match=r"got 'bogus'$"):
        train_profile(dense, tmp_path / "p", calibration=[text], settings=TINY, objective="bogus")
    assert not (tmp_path / "p" / JOURNAL).exists()


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_a_record_of_another_program_is_refused_before_anything_is_loaded(how, tmp_path):
    (tmp_path / RECORD).write_text('{"user": "data"}')
    with pytest.raises(ProfileError, match=r"profile\.json is not a profile of unicuco-plugin; it will not be"):
        train_profile("no such model", tmp_path, **{how: True})
    assert (tmp_path / RECORD).read_text() == '{"user": "data"}'


def test_a_cache_that_is_a_link_in_the_output_is_not_written_through(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "calibration").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CalibrationError, match=r"calibration must be a folder of its own; remove what is there"):
        own_cache(tmp_path)
