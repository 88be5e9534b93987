"""Windows cut from the user's text."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.texts import calibration
from unicuco_plugin.texts.calibration import calibration_hash, load_windows
from unicuco_plugin.texts.documents import Document


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def sources(tmp_path):
    """Two files of different length that share no word."""
    even, odd = tmp_path / "even.txt", tmp_path / "odd.txt"
    even.write_text("\n\n".join(" ".join(f"w{(i * 2 + j * 2) % 124}" for j in range(20)) for i in range(30)))
    odd.write_text("\n\n".join(" ".join(f"w{(i * 2 + j * 2 + 1) % 124}" for j in range(20)) for i in range(10)))
    return [even, odd]


def _cut(sources, tokenizer, count=6, length=16, seed=0, **options):
    return load_windows(sources, tokenizer, count=count, length=length, seed=seed, **options)


def test_windows_repeat_with_their_seed_and_differ_without(sources, tokenizer):
    windows = _cut(sources, tokenizer)
    assert windows.shape == (6, 16)
    assert windows.dtype == torch.int64
    assert torch.equal(windows, _cut(sources, tokenizer))
    assert not torch.equal(windows, _cut(sources, tokenizer, seed=1))


@pytest.mark.parametrize("count", [1, 6, 7])
def test_every_source_gives_its_share(count, sources, tokenizer):
    windows = _cut(sources, tokenizer, count=count)
    assert int((windows[:, 0] % 2 == 0).sum()) == count - count // 2


@given(total=st.integers(40, 400), count=st.integers(1, 8), length=st.integers(2, 5), seed=st.integers(0, 99))
def test_windows_are_contiguous_and_never_overlap(total, count, length, seed):
    tokens = torch.arange(total)
    windows = calibration._cut(tokens, count, length, torch.Generator().manual_seed(seed))
    assert (windows.diff(dim=1) == 1).all()
    for one, two in itertools.pairwise(windows):
        assert one[-1] < two[0]
    assert all(i * total // count <= w[0] and w[-1] < (i + 1) * total // count for i, w in enumerate(windows))


def test_all_tokens_can_be_used_up(tmp_path, tokenizer):
    path = tmp_path / "exact.txt"
    path.write_text(" ".join(["w5"] * 32))
    assert _cut([path], tokenizer, count=2).shape == (2, 16)


def test_a_short_source_says_what_it_needs_and_has(tmp_path, tokenizer):
    path = tmp_path / "short.txt"
    path.write_text(" ".join(["w5"] * 31))
    with pytest.raises(CalibrationError) as caught:
        _cut([path], tokenizer, count=2)
    assert str(caught.value) == (
        f"calibration source {path} is too short: needs 32 tokens, has 31; give more text, or ask for fewer or shorter "
        "windows"
    )


def test_samples_limit_the_documents(sources, tokenizer):
    with pytest.raises(CalibrationError, match=r"needs 48 tokens, has 40; give more text"):
        _cut(sources, tokenizer, samples=2)


def test_documents_are_joined_in_order_across_batches(monkeypatch, tokenizer):
    monkeypatch.setattr(calibration, "_BATCH", 3)
    documents = [Document(f"w{i}", templated=i in (1, 6, 7)) for i in range(8)]
    assert calibration._encode(documents, tokenizer) == [i + 4 for i in range(8)]


def test_long_sources_are_thinned_from_end_to_end(monkeypatch, sources, tokenizer):
    documents = [Document("w1 w2 w3")] * 100
    assert len(calibration._thin(documents, 8 * 10)) == 10
    assert len(calibration._thin(documents, 10**6)) == 100
    monkeypatch.setattr(calibration, "_ENOUGH", 1)
    monkeypatch.setattr(calibration, "_CHARACTERS", 1)
    assert _cut(sources, tokenizer, count=24).shape == (24, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
    ],
)
def test_numbers_are_checked(options, message, sources, tokenizer):
    with pytest.raises(CalibrationError, match=f"^{message}$"):
        _cut(sources, tokenizer, **options)


def test_no_source_is_refused(tokenizer):
    with pytest.raises(CalibrationError, match=r"^calibration needs at least one source, got none$"):
        _cut([], tokenizer)


def test_the_hash_names_content_and_shape():
    windows = torch.arange(12).view(3, 4)
    assert calibration_hash(windows) == calibration_hash(windows.to(torch.int32))
    assert len({calibration_hash(w) for w in (windows, windows.view(4, 3), windows + 1)}) == 3


@pytest.mark.slow
def test_real_text_is_cut_by_the_real_tokenizer(shared_data, smollm2):
    from unicuco_plugin.models.loading import load_tokenizer

    files = [shared_data / "text" / f"calib_{name}.txt" for name in ("wikipedia", "webtext")]
    assert _cut(files, load_tokenizer(smollm2), count=4, length=64).shape == (4, 64)
