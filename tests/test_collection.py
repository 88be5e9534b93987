"""Several profiles of one model, asked together: packaged ones, in a folder."""

import json
import shutil

import pytest

from unicuco_plugin.answering import PACKAGED, Profile, load_profile
from unicuco_plugin.collection import Collection, is_collection, load_profiles
from unicuco_plugin.errors import ProfileError, RequestError
from unicuco_plugin.strategy import Strategy

NAMES = [f"smollm2-135m-instruct-{space}" for space in ("depth", "precision", "sparsity")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    for name in NAMES:
        shutil.copytree(PACKAGED / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def several(folder):
    return load_profiles(folder)


@pytest.mark.parametrize(
    "fields",
    [{"max_bytes": 150_000_000}, {"sparsity": 0.1}, {"bits": 6}, {"max_memory": "400MB", "context": 4096}],
    ids=lambda fields: next(iter(fields)),
)
def test_the_answer_is_the_best_of_all_that_can_answer_and_says_whose_it_is(several, fields):
    answers = {}
    for name in NAMES:
        try:
            answers[name] = load_profile(name).answer(**fields)
        except RequestError:
            continue
    best = min(answers, key=lambda name: answers[name].divergence.mean)
    answer = several.answer(**fields)
    assert answer == answers[best].model_copy(update={"profile": best})
    assert json.loads(answer.to_json())["profile"] == best
    assert Strategy.from_dict(json.loads(answer.to_json())) == answer


def test_a_divergence_alone_takes_the_fewest_bytes(several):
    answer = Collection({name: several.profiles[name] for name in NAMES[:2]}).answer(max_divergence=0.3)
    assert answer.profile == NAMES[1]
    assert answer.bytes == min(load_profile(name).answer(max_divergence=0.3).bytes for name in NAMES[:2])


def test_what_no_profile_can_do_gives_the_reason_of_one_that_knows_what_is_asked(several):
    with pytest.raises(RequestError) as caught:
        several.answer(max_bytes=1000)
    assert str(caught.value).startswith(
        f"none of 3 profiles can answer; {NAMES[0]} says: max_bytes must be at least 63"
    )
    backwards = Collection(
        {name: several.profiles[name] for name in reversed(NAMES)}
    )  # only the last counts parameters
    with pytest.raises(RequestError, match=rf"; {NAMES[0]} says: max_divergence 0\.7 cannot be met with max_params "):
        backwards.answer(max_divergence=0.7, max_params=100_000_000)
    with pytest.raises(
        RequestError, match=r"^preference weighs the front of one profile, got a folder of them: name one$"
    ):
        several.answer(preference=(1, 1))


def test_a_folder_of_profiles_is_told_from_a_profile(folder, tmp_path):
    assert is_collection(folder)
    assert not is_collection(folder / NAMES[0])
    assert not is_collection(NAMES[0])
    with pytest.raises(ProfileError, match=r"must hold 1 to 64 folders with a profile\.json each, got 0$"):
        load_profiles(tmp_path)


def test_profiles_of_two_models_are_refused(several):
    profile = several.profiles[NAMES[0]]
    other = profile.model.model_copy(update={"fingerprint": "other"})
    changed = Profile(profile.record.model_copy(update={"model": other}), profile._tensors)
    with pytest.raises(
        ProfileError, match=r"^profiles of one folder must be for one model: a is for SmolLM2-135M-Instr"
    ):
        Collection({"a": profile, "b": changed})
