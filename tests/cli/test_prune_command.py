"""``unicuco prune``: three ways to say what goes, and what is refused before a weight is read."""

import json
import random

import pytest
from sparsity_strategies import linear_sizes, sparsity_strategy

from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.export import oneshot
from unicuco_plugin.strategy import Strategy

pytestmark = pytest.mark.usefixtures("machine")

SOURCES = "give one of --profile or --peer with a request, --strategy, --recipe and --evopress"


@pytest.fixture
def forbidden(monkeypatch):
    """Fails the test if a model's weights are read."""

    def fail(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(oneshot, "load_model", fail)


@pytest.fixture
def strategy_file(unicuco, profile, tmp_path):
    path = tmp_path / "strategy.json"
    path.write_text(unicuco("strategy", profile, "--sparsity", "0.3", "--json").stdout)
    return path


@pytest.fixture
def sparsity_file(dense, tmp_path):
    path = tmp_path / "sparsity.json"
    path.write_text(sparsity_strategy(load_model(dense)).to_json())
    return path


@pytest.fixture
def recipe(profile, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "pruning_stage:\n  pruning_modifiers:\n    SparsityProfileModifier:\n"
        f"      profile: {profile}\n      request: {{sparsity: 0.3}}\n"
    )
    return path


@pytest.fixture
def prune(unicuco, dense, tmp_path):
    def run(*arguments):
        return unicuco("prune", "--model", dense, "--output", tmp_path / "out", *arguments)

    return run


@pytest.mark.slow
def test_a_profile_and_a_request_make_a_checkpoint(prune, profile, tmp_path):
    result = prune("--profile", profile, "--sparsity", "0.3", "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["path"] == str(tmp_path / "out")
    assert len(data["strategies"][0]["units"]) == 2
    assert load_model(tmp_path / "out").config.num_hidden_layers == 4
    assert data["params"] == load_model(tmp_path / "out").num_parameters()


@pytest.mark.parametrize("way", ["strategy", "recipe"])
def test_a_strategy_file_and_a_recipe_do_the_same(way, prune, strategy_file, recipe, tmp_path):
    result = prune(f"--{way}", {"strategy": strategy_file, "recipe": recipe}[way])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("removed     model.layers ")
    written = Strategy.read(tmp_path / "out" / "strategy.json")
    assert written.units == Strategy.read(strategy_file).units


@pytest.mark.slow
@pytest.mark.parametrize("engine", [None, "sparsegpt", "wanda"])
def test_a_strategy_that_sparsifies_brings_the_pass_that_carries_it_out(engine, prune, sparsity_file, text, tmp_path):
    arguments = ["--strategy", sparsity_file, "--calibration", text, "--samples", "4", "--seq-length", "16"]
    result = prune(*arguments, *(["--engine", engine] if engine else []), "--json")
    assert result.exit_code == 0, result.stderr
    achieved = json.loads(result.stdout)["achieved"]
    assert achieved["engine"] == ("WandaPruningModifier" if engine == "wanda" else "SparseGPTModifier")
    assert len(achieved["linears"]) == 26
    model = load_model(tmp_path / "out")
    zeros = sum(int((model.get_submodule(name).weight == 0).sum()) for name in linear_sizes(model))
    assert zeros == achieved["exported"] > 0


@pytest.mark.slow
def test_without_text_the_model_writes_its_own(prune, sparsity_file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = prune("--strategy", sparsity_file, "--engine", "wanda", "--samples", "3", "--seq-length", "8")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("no --calibration: the model writes 3 windows of its own\n")
    assert result.stdout.startswith("zeroed      5 units by 0.3000 to 0.9000 of their weights")
    assert list((tmp_path / "cache" / "unicuco").glob("self-*"))


@pytest.mark.slow
def test_a_peer_prunes_for_real(prune, text, tmp_path):
    arguments = ["--calibration", text, "--samples", "4", "--seq-length", "16", "--json"]
    result = prune("--peer", "owl", "--sparsity", "0.6", "--engine", "wanda", *arguments)
    assert result.exit_code == 0, result.stderr
    [strategy] = json.loads(result.stdout)["strategies"]
    assert (strategy["space"], strategy["peer"], strategy["request"]) == ("sparsity", "owl", {"sparsity": 0.6})
    assert strategy["sparsity"] == pytest.approx(0.6)


@pytest.mark.slow
def test_a_peer_without_text_lets_the_model_write_it_and_one_that_reads_none_does_not(prune, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = prune("--peer", "shortgpt", "--sparsity", "0.3", "--samples", "3", "--seq-length", "8")
    assert result.exit_code == 0, result.stderr
    assert "no --calibration: the model writes 3 windows of its own" in result.stderr
    assert "divergence  unknown: shortgpt gives none; unicuco evaluate measures it" in result.stdout


@pytest.mark.slow
def test_evopress_searches_on_the_levels_that_it_is_stitched_from(prune, database, tmp_path):
    words = random.Random(0).choices([f"w{number}" for number in range(100)], k=12000)  # noqa: S311
    (tmp_path / "long.txt").write_text(" ".join(words))
    options = ["--setting", "super_fast", "--token-budget", "45000", "--journal", tmp_path / "journal.sqlite"]
    calibration = ["--calibration", tmp_path / "long.txt", "--samples", "80", "--seq-length", "128"]
    ways = ["--peer", "evopress", "--sparsity", "0.5", "--engine", "levels", "--levels", database]
    result = prune(*ways, *options, *calibration, "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["strategies"][0]["peer"] == "evopress"
    assert data["achieved"]["exported"] == data["achieved"]["weights"] / 2
    assert (tmp_path / "journal.sqlite").exists()


@pytest.mark.slow
def test_an_evopress_file_of_levels_is_stitched_without_text(prune, dense, database, tmp_path):
    names = linear_sizes(load_model(dense))
    (tmp_path / "levels.txt").write_text("\n".join(f"{name}: 0" for name in names))
    arguments = ["--evopress", tmp_path / "levels.txt", "--sparsity", "0.5", "--engine", "levels", "--levels", database]
    result = prune(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    achieved = json.loads(result.stdout)["achieved"]
    assert achieved["exported"] == achieved["planned"] == achieved["weights"] / 2


@pytest.mark.usefixtures("forbidden")
@pytest.mark.parametrize("options", [("--engine", "levels"), ("--levels", "db")], ids=str)
def test_stitching_needs_an_engine_and_a_database_to_stitch_from(prune, sparsity_file, options):
    result = prune("--strategy", sparsity_file, *options)
    assert result.exit_code == 2
    assert "Error: --engine levels and --levels DIR go together" in result.stderr


@pytest.fixture
def database(unicuco, dense, text, tmp_path):
    """A level database of the tiny model, by the command line."""
    options = ("--sparsities", "0.3,0.6,0.9", "--samples", "4", "--seq-length", "16")
    folder = tmp_path / "db"
    built = unicuco("levels", "build", "--model", dense, "--output", folder, "--calibration", text, *options)
    assert built.exit_code == 0, built.stderr
    return folder


@pytest.mark.slow
def test_stitching_needs_no_text_and_meets_the_plan_to_the_weight(prune, sparsity_file, database):
    result = prune("--strategy", sparsity_file, "--engine", "levels", "--levels", database, "--json")
    assert result.exit_code == 0, result.stderr
    achieved = json.loads(result.stdout)["achieved"]
    assert achieved["engine"] == "level database"
    assert achieved["planned"] == achieved["achieved"] == achieved["exported"]


@pytest.mark.slow
def test_text_calibrates_the_modifiers_of_a_recipe_that_need_it(prune, recipe, text):
    with recipe.open("a") as file:
        file.write("    WandaPruningModifier: {sparsity: 0.5, targets: [Linear], ignore: [lm_head]}\n")
    refused = prune("--recipe", recipe)
    assert refused.exit_code == 1
    assert refused.stderr == "error: WandaPruningModifier needs calibration text, got none; pass --calibration FILE\n"
    given = prune("--recipe", recipe, "--calibration", text, "--samples", "4", "--seq-length", "16")
    assert given.exit_code == 0, given.stderr


@pytest.mark.usefixtures("forbidden")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], f"{SOURCES}; got none"),
        (
            ["--profile", "PROFILE", "--recipe", "r"],
            f"{SOURCES}; got --profile and --recipe",
        ),
        (["--profile", "PROFILE"], "--profile needs one request, for instance --sparsity 0.25"),
        (
            ["--peer", "owl", "--sparsity", "0.3", "--max-params", "9"],
            "--peer goes with --sparsity or --bits, not with --sparsity and --max-params",
        ),
        (
            ["--strategy", "STRATEGY", "--sparsity", "0.3"],
            "a request goes with --profile or --peer, not with --strategy",
        ),
        (
            ["--profile", "PROFILE", "--sparsity", "0.3", "--engine", "wanda"],
            "--engine wanda: a strategy of the space depth takes out what it names, which needs no engine; leave it "
            "out",
        ),
        (["--peer", "owl"], "--peer needs one request, for instance --sparsity 0.25"),
        (["--peer", "owl", "--max-params", "9"], "--peer goes with --sparsity or --bits, not with --max-params"),
        (["--strategy", "STRATEGY", "--setting", "official"], "--setting goes with --peer, not with --strategy"),
        (
            ["--profile", "PROFILE", "--sparsity", "0.3", "--space", "structured"],
            "--space structured: the given source is of the space depth; leave it out",
        ),
        (["--strategy", "STRATEGY", "--step", "9"], "--step goes with --evopress, not with --strategy"),
        (["--recipe", "r", "--engine", "levels"], "--engine does not go with --recipe; write it into the recipe"),
        (
            ["--recipe", "r", "--compensation", "ridge"],
            "--compensation does not go with --recipe; write it into the recipe",
        ),
        (
            ["--recipe", "r", "--accept-other-weights"],
            "--accept-other-weights does not go with --recipe; write it into the recipe",
        ),
        (
            ["--profile", "PROFILE", "--sparsity", "0.3", "--engine", "magnitude"],
            "Invalid value for '--engine': 'magnitude' is not one of 'sparsegpt', 'wanda', 'gptq', 'levels'.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_contradict_each_other_are_refused(prune, profile, strategy_file, arguments, message):
    places = {"PROFILE": profile, "STRATEGY": strategy_file}
    result = prune(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: {message}"


@pytest.mark.usefixtures("forbidden")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--profile", "nowhere", "--sparsity", "0.3"],
            "no profile at nowhere: neither a folder nor a packaged profile",
        ),
        (["--profile", "PROFILE", "--sparsity", "0.9"], "sparsity must be at most 0.833333 for this profile"),
        (["--strategy", "nowhere.json"], "strategy file nowhere.json cannot be read: "),
        (["--strategy", "TEXT"], "strategy file TEXT cannot be read: Expecting value"),
        (["--recipe", "nowhere.yaml"], "recipe nowhere.yaml cannot be read: "),
        (["--recipe", "TEXT"], "TEXT, line 1: "),
        (["--model", "/nowhere", "--recipe", "RECIPE"], "/nowhere: no such model folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_read_is_one_line(prune, request, arguments, message):
    names = ("profile", "recipe", "text")
    places = {name.upper(): request.getfixturevalue(name) for name in names if name.upper() in arguments}
    if arguments[0] == "--model":
        request.getfixturevalue("monkeypatch").undo()  # only the real loader refuses the model
    result = prune(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 1
    for name, place in places.items():
        message = message.replace(name, str(place))
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("forbidden")
def test_an_output_that_exists_is_refused_first(prune, tmp_path):
    (tmp_path / "out").mkdir()
    result = prune("--profile", "nowhere", "--sparsity", "0.3")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: {tmp_path / 'out'}: already exists; pass --overwrite to replace it\n"


@pytest.mark.slow
def test_a_fine_tune_is_served_only_on_request(unicuco, dense, profile, tmp_path):
    tuned = load_model(dense)
    tuned.lm_head.weight.data += 0.1
    tuned.save_pretrained(tmp_path / "tuned")
    arguments = ["prune", "--model", tmp_path / "tuned", "--output", tmp_path / "out", "--profile", profile]
    refused = unicuco(*arguments, "--sparsity", "0.3")
    assert refused.exit_code == 1
    assert "same structure but other weights" in refused.stderr
    assert "pass --accept-other-weights" in refused.stderr
    accepted = unicuco(*arguments, "--sparsity", "0.3", "--accept-other-weights", "--json")
    divergence = json.loads(accepted.stdout)["strategies"][0]["divergence"]
    assert (divergence["measured"], divergence["carried_over"]) == (False, True)
