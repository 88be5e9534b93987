import json
import re

import pytest
import torch
from analytic_profile import build, train_analytic

from unicuco_plugin import profile as profile_module
from unicuco_plugin.answering import load_profile
from unicuco_plugin.errors import ProfileError
from unicuco_plugin.profile import RECORD, read_profile, write_profile


@pytest.fixture(scope="module")
def made():
    return build(train_analytic(epochs=0, steps=5, initial=12, rerank=0))


@pytest.fixture
def folder(made, tmp_path):
    write_profile(tmp_path / "p", *made)
    return tmp_path / "p"


def edit(folder, change):
    path = folder / RECORD
    content = json.loads(path.read_text(encoding="utf8"))
    change(content)
    path.write_text(json.dumps(content, indent=1), encoding="utf8")


def safetensors_of(folder):
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.slow
def test_a_profile_returns_as_it_was_written(made, folder):
    record, tensors = read_profile(folder)
    assert record == made[0]
    assert tensors.keys() == made[1].keys()
    for stem, expected in made[1].items():
        assert tensors[stem].keys() == expected.keys()
        assert all(torch.equal(tensors[stem][name], value) for name, value in expected.items())


def test_the_folder_holds_one_record_and_two_tensor_files_and_nothing_else(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert [re.sub(r"-[0-9a-f]{8}\.", ".", name) for name in names] == [
        "profile.json",
        "stratnet.safetensors",
        "surrogate.safetensors",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["p"]


def test_the_record_may_be_laid_out_otherwise(folder, made):
    path = folder / RECORD
    content = json.loads(path.read_text(encoding="utf8"))
    path.write_text(json.dumps(dict(reversed(content.items()))), encoding="utf8")
    assert read_profile(folder)[0] == made[0]


def test_the_same_profile_written_twice_has_the_same_bytes(made, folder, tmp_path):
    write_profile(tmp_path / "q", *made)
    for path in folder.iterdir():
        assert (tmp_path / "q" / path.name).read_bytes() == path.read_bytes()


def test_a_missing_profile_is_refused(tmp_path):
    with pytest.raises(ProfileError, match=f"^no profile at {tmp_path}/p: it has no profile.json$"):
        read_profile(tmp_path / "p")
    with pytest.raises(ProfileError, match=r"p: neither a folder nor a packaged profile \(.*\)$"):
        load_profile(tmp_path / "p")


@pytest.mark.parametrize("keep", [0, 1, 0.5, 0.99])
def test_a_truncated_record_is_refused(folder, keep):
    data = (folder / RECORD).read_bytes()
    (folder / RECORD).write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(ProfileError, match=f"^profile {folder}/profile.json cannot be read: "):
        load_profile(folder)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"PK\x03\x04", b"not json", b"[" * 100_000], ids=["utf-16", "zip", "text", "deep"]
)
def test_a_record_that_is_no_json_is_refused(folder, content):
    (folder / RECORD).write_bytes(content)
    with pytest.raises(ProfileError, match="cannot be read: "):
        load_profile(folder)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}", '{"name": "bert"}'])
def test_somebody_elses_json_is_refused(folder, content):
    (folder / RECORD).write_text(content, encoding="utf8")
    with pytest.raises(ProfileError, match=f"^profile {folder}/profile.json is damaged: it has no schema$"):
        load_profile(folder)


def test_somebody_elses_schema_one_is_refused(folder):
    (folder / RECORD).write_text('{"schema": 1, "files": {}}', encoding="utf8")
    with pytest.raises(ProfileError, match=r"was edited or damaged: its digest does not match; train it again$"):
        load_profile(folder)


def test_a_newer_schema_is_refused_before_anything_else_is_looked_at(folder):
    edit(folder, lambda content: content.update(schema=2, something="new"))
    message = f"^profile schema must be 1, got 2: another unicuco-plugin wrote {folder}/profile.json$"
    with pytest.raises(ProfileError, match=message):
        load_profile(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["archive"][3].update(rank=c["archive"][3]["rank"] * 1.001),
        lambda c: c["sizes"].update(total_params=c["sizes"]["total_params"] + 1),
        lambda c: c["provenance"].update(seed=1),
        lambda c: c["model"].update(fingerprint="other"),
        lambda c: c["archive"].pop(),
        lambda c: c.update(extra=1),
        lambda c: c.pop("digest"),
        lambda c: c["files"].clear(),
    ],
    ids=["a number", "a size", "provenance", "the model", "an entry gone", "a field more", "no digest", "no files"],
)
def test_an_edited_record_is_refused(folder, change):
    edit(folder, change)
    message = f"^profile {folder}/profile.json was edited or damaged: its digest does not match; train it again$"
    with pytest.raises(ProfileError, match=message):
        load_profile(folder)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["truncated", "one bit", "foreign", "empty"])
def test_a_damaged_tensor_file_is_refused(folder, which, damage):
    path = safetensors_of(folder)[which]
    data = path.read_bytes()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    path.write_bytes({"truncated": data[:-9], "one bit": flipped, "foreign": b"PK\x03\x04", "empty": b""}[damage])
    message = f"^profile file {re.escape(str(path))} was edited or truncated: it does not match profile.json$"
    with pytest.raises(ProfileError, match=message):
        load_profile(folder)


def test_a_missing_tensor_file_is_refused(folder):
    path = safetensors_of(folder)[0]
    path.unlink()
    with pytest.raises(ProfileError, match=f"^profile file {re.escape(str(path))} cannot be read: "):
        load_profile(folder)


def test_tensors_that_do_not_fit_the_record_are_refused(made, tmp_path):
    record, tensors = made
    write_profile(tmp_path / "p", record, {"surrogate": tensors["surrogate"]})
    with pytest.raises(ProfileError, match=r"^profile analytic is damaged: 'stratnet'$"):
        load_profile(tmp_path / "p")
    few = {name: value for name, value in tensors["surrogate"].items() if name != "ell"}
    write_profile(tmp_path / "p", record, tensors | {"surrogate": few})
    with pytest.raises(ProfileError, match=r"^profile analytic is damaged: surrogate lacks ell$"):
        load_profile(tmp_path / "p")


def test_a_value_that_json_cannot_hold_is_refused_and_nothing_is_written(made, tmp_path):
    record = made[0].model_copy(update={"shift": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_profile(tmp_path / "p", record, made[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("survived", range(3))
def test_a_write_that_fails_anywhere_leaves_the_old_profile_or_none(made, folder, survived, monkeypatch, tmp_path):
    record, tensors = made
    newer = {stem: {k: v + 1.0 for k, v in part.items()} for stem, part in tensors.items()}
    done = []

    def failing(number):
        done.append(number)
        if len(done) > survived:
            raise OSError(28, "No space left on device")

    for target in (folder, tmp_path / "new"):
        done.clear()
        with monkeypatch.context() as patch, pytest.raises(ProfileError, match="No space left"):
            patch.setattr(profile_module.os, "fsync", failing)
            write_profile(target, record.model_copy(update={"name": "newer"}), newer)
    assert read_profile(folder)[0] == record
    with pytest.raises(ProfileError, match=r"it has no profile\.json$"):
        read_profile(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_profile_that_replaces_another_takes_its_tensor_files_away_and_nothing_else(made, folder):
    record, tensors = made
    others = ["model.safetensors", "model-00001-of-00002.safetensors", "notes.txt", "surrogate.safetensors"]
    for name in others:
        (folder / name).write_bytes(b"mine")
    newer = tensors | {"stratnet": {k: v + 1.0 for k, v in tensors["stratnet"].items()}}
    write_profile(folder, record, newer)
    assert torch.equal(read_profile(folder)[1]["stratnet"]["layers.0.bias"], newer["stratnet"]["layers.0.bias"])
    assert {path.name for path in folder.iterdir()} >= set(others)
    assert len(safetensors_of(folder)) == 2 + 3


def test_a_profile_of_another_space_leaves_none_of_its_tensor_files(made, folder):
    record, tensors = made
    write_profile(folder, record, tensors | {"parts": tensors["surrogate"]})
    write_profile(folder, record, tensors)
    assert [path.name.partition("-")[0] for path in safetensors_of(folder)] == ["stratnet", "surrogate"]
