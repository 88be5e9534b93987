"""Profiles that are served: found by name, read again when they change, and never half."""

import shutil

import pytest
from asgi import DEPTH
from device_tables import made_table, seen

from unicuco_plugin.errors import ModelMismatchError, ProfileError
from unicuco_plugin.profile import PACKAGED, read_profile, write_profile
from unicuco_plugin.web.library import Library


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(PACKAGED / DEPTH, tmp_path / "all" / "one")
    return tmp_path / "all"


def rewrite(folder):
    record, tensors = read_profile(folder)
    write_profile(folder, record.model_copy(update={"shift": record.shift + 0.1}), tensors)


def test_a_folder_of_profiles_serves_each_by_its_folders_name(folder):
    shutil.copytree(folder / "one", folder / "two")
    library = Library([folder, DEPTH])
    assert sorted(library.served) == ["one", DEPTH, "two"]
    assert library.find("two").profile.name == DEPTH


def test_only_where_there_is_one_it_need_not_be_named(folder):
    library = Library([folder])
    assert library.find(None) is library.find("one")
    with pytest.raises(ProfileError, match=r"^profile must be one of one, got 'One'$"):
        library.find("One")
    with pytest.raises(ProfileError, match="got none"):
        Library([folder, DEPTH]).find(None)


def test_what_did_not_change_is_not_read_again_and_what_did_is(folder):
    heard = []
    library = Library([folder], lambda *told: heard.append(told))
    before = library.find("one")
    library.refresh()
    assert library.find("one") is before
    rewrite(folder / "one")
    library.refresh()
    assert library.find("one").digest != before.digest
    assert heard == [("one", None)] * 2


def test_a_damaged_profile_keeps_its_last_state_and_a_whole_one_replaces_it(folder):
    heard = []
    library = Library([folder], lambda name, error: heard.append(error))
    before, record = library.find("one"), folder / "one" / "profile.json"
    whole = record.read_bytes()
    record.write_bytes(whole[:-20])
    library.refresh()
    assert library.find("one") is before
    assert isinstance(heard[-1], ProfileError)
    library.refresh()
    assert len(heard) == 3  # it is tried again
    record.unlink()
    library.refresh()
    assert "one" not in library.served  # it is gone
    record.write_bytes(whole)
    library.refresh()
    assert library.find("one").digest == before.digest


def test_what_appears_is_served_and_what_goes_is_not(folder):
    library = Library([folder])
    shutil.copytree(folder / "one", folder / "new")
    library.refresh()
    shutil.rmtree(folder / "one")
    library.refresh()
    assert list(library.served) == ["new"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["nowhere"], "no profile at nowhere: neither a folder nor a packaged profile"),
        ([DEPTH, DEPTH], f"profiles must have folders of different names, got '{DEPTH}' twice"),
        (["."], "profiles must be 1 to 256, got 0 at '.'"),
    ],
)
def test_a_wrong_source_is_said_at_once(tmp_path, monkeypatch, sources, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProfileError) as error:
        Library(sources)
    assert str(error.value).startswith(message)


@pytest.mark.slow
def test_a_table_of_times_is_for_the_profiles_of_its_model(folder, tmp_path):
    record, tensors = read_profile(folder / "one")
    other = record.model.model_copy(update={"fingerprint": "0000.1111"})
    write_profile(folder / "two", record.model_copy(update={"model": other}), tensors)
    made_table(record.model.fingerprint).write(tmp_path / "t.json")
    library = Library([folder], device_table=tmp_path / "t.json")
    assert [library.find(name).describe()["latency"] for name in ("one", "two")] == [True, False]
    assert library.find("one").profile.answer(min_speedup=1.1, context=100).latency.device == "a card"
    before = library.find("one")
    library.refresh()
    assert library.find("one") is before
    made_table(record.model.fingerprint, observations=(seen(50.0, 60.0),)).write(tmp_path / "t.json")
    library.refresh()
    assert library.find("one").digest != before.digest
    assert library.find("one").profile.costs.device.observations
    made_table("2222.1111").write(tmp_path / "other.json")
    with pytest.raises(ModelMismatchError, match="is of another model than every profile served"):
        Library([folder], device_table=tmp_path / "other.json")
