"""Profiles, strategies, requests and markers: signed as a stranger can sign them, and damaged as a disk does."""

import json
import shutil

from judging import fuzz
from mutations import NASTY, mutate_bytes, mutate_json, mutate_text

from unicuco_plugin import ownership, profile
from unicuco_plugin.answering import PACKAGED, load_profile
from unicuco_plugin.models.output_folder import check_output
from unicuco_plugin.quantities import parse_bytes
from unicuco_plugin.report.front import describe_profile, profile_data
from unicuco_plugin.request import Request
from unicuco_plugin.request_file import read_requests
from unicuco_plugin.strategy import Strategy

SPACES = ("depth", "sparsity", "structured")
DEPTH, SPARSITY, STRUCTURED = (PACKAGED / f"smollm2-135m-instruct-{space}" for space in SPACES)
REQUESTS = [{"sparsity": 0.25}, {"max_params": 100_000_000}, {"max_bytes": "200MB"}, {"max_divergence": 0.5}]
REQUESTS += [{"preference": [0.3, 0.7]}]


def signed(document, content):
    """The document's bytes, also where a value is none that JSON has."""
    content = {"schema": document.schema, **content}
    from unicuco_plugin.signed import _digest

    return json.dumps(content | {"digest": _digest(content)}).encode("utf8", "surrogatepass")


def copied(source, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def ask(folder, draw):
    """Everything that a profile is read for; of shares in steps, whose answers take seconds, without an answer."""
    loaded = load_profile(folder)
    if loaded.search_space.stepped:
        return []
    answers = [loaded.answer(Request.of(**draw.choice(REQUESTS if not loaded.search_space.smooth else REQUESTS[:1])))]
    if not loaded.search_space.smooth:
        describe_profile(loaded)
        json.dumps(profile_data(loaded), allow_nan=False)
    return answers


def check_answers(answers):
    for answer in answers:
        assert Strategy.from_dict(json.loads(answer.to_json())) == answer


@fuzz(80)
def test_profiles_that_say_something_else(judge, draw):
    source = draw.choice([DEPTH, SPARSITY, STRUCTURED])
    folder = copied(source, judge.folder / "p")
    content = mutate_json(profile._DOCUMENT.read(folder / "profile.json"), draw)
    if isinstance(content, dict):
        (folder / "profile.json").write_bytes(signed(profile._DOCUMENT, content))
    judge(lambda: ask(folder, draw), check_answers)


@fuzz(60)
def test_profiles_whose_bytes_changed_are_refused(judge, draw):
    folder = copied(DEPTH, judge.folder / "p")
    path = draw.choice(sorted(folder.iterdir()))
    before = path.read_bytes()
    after = mutate_bytes(before, draw)
    path.write_bytes(after)
    refused = judge(lambda: ask(folder, draw), check_answers)
    # JSON may be written in other ways: what counts is what it says.
    assert refused or after == before or json.loads(after) == json.loads(before)


@fuzz(60)
def test_profiles_with_other_tensors(judge, draw):
    folder = copied(draw.choice([DEPTH, SPARSITY, STRUCTURED]), judge.folder / "p")
    content = profile._DOCUMENT.read(folder / "profile.json")
    old = draw.choice(sorted(content["files"]))
    data = mutate_bytes((folder / old).read_bytes(), draw)
    new = profile._file_name(old.partition("-")[0], data)
    (folder / new).write_bytes(data)
    import hashlib

    content["files"] = {name: digest for name, digest in content["files"].items() if name != old}
    content["files"][new] = hashlib.sha256(data).hexdigest()
    (folder / "profile.json").write_bytes(signed(profile._DOCUMENT, content))
    judge(lambda: ask(folder, draw), check_answers)


@fuzz(150)
def test_strategies(judge, draw):
    content = load_strategy().to_dict()
    path = judge.folder / "strategy.json"
    if draw.random() < 0.7:
        path.write_bytes(json.dumps(mutate_json(content, draw)).encode("utf8", "surrogatepass"))
    else:
        path.write_bytes(mutate_bytes(json.dumps(content).encode(), draw))
    judge(lambda: Strategy.read(path), lambda read: json.dumps(read.to_dict(), allow_nan=False))


_STRATEGY = []


def load_strategy():
    if not _STRATEGY:
        _STRATEGY.append(load_profile(DEPTH).answer(sparsity=0.25))
    return _STRATEGY[0]


@fuzz(200)
def test_requests(judge, draw):
    given = mutate_json(draw.choice([{name: value} for request in REQUESTS for name, value in request.items()]), draw)
    path = judge.folder / "requests.jsonl"
    text = json.dumps(given)
    path.write_bytes((mutate_text(text, draw) if draw.random() < 0.3 else text).encode())
    judge(lambda: read_requests(path), lambda read: [json.dumps(one.to_dict(), allow_nan=False) for one in read])


@fuzz(200)
def test_numbers_of_bytes(judge, draw):
    text = mutate_text(draw.choice(["6000000", "6GB", "5.5 GiB", "1e9", str(draw.choice(NASTY))]), draw)
    judge(lambda: parse_bytes(text), lambda count: count > 0)


@fuzz(60)
def test_markers_never_lead_out_of_their_folder(judge, draw):
    folder = judge.folder / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    precious = judge.folder / "precious.txt"
    precious.write_text("precious")
    (folder / "config.json").write_text("{}")
    (folder / "mine.txt").write_text("mine")
    names = [draw.choice(["config.json", "../precious.txt", str(precious), "mine.txt", "a/../../precious.txt", "x/"])]
    content = mutate_json({"files": ["config.json", *names]}, draw)
    if isinstance(content, dict):
        (folder / ownership.MARKER).write_bytes(signed(ownership._DOCUMENT, content))
    judge(lambda: check_output(folder, overwrite=True))
    judge(lambda: ownership.remove_owned(folder, ownership.read_marker(folder) or {"config.json"}))
    assert precious.read_text() == "precious"
