"""Weights that are kept in memory: what stays, what goes."""

import pytest
import torch

from unicuco_plugin.levels.decoded import DecodedLevels

CPU = torch.device("cpu")


@pytest.fixture
def read():
    return []


@pytest.fixture
def decoded():
    return DecodedLevels()


def fetch(decoded, read, name, level=1, limit=100):
    def decode():
        read.append((name, level))
        return torch.full((10,), level, dtype=torch.float32)

    return decoded.get(name, level, CPU, decode, limit)


def test_a_weight_is_read_once(decoded, read):
    assert fetch(decoded, read, "a") is fetch(decoded, read, "a")
    assert fetch(decoded, read, "a", level=2)[0] == 2.0
    assert read == [("a", 1), ("a", 2)]
    assert decoded.bytes == 80


def test_the_least_recently_used_goes_first(decoded, read):
    for name in ("a", "b", "a", "c", "a", "b"):
        fetch(decoded, read, name)
        assert decoded.bytes <= 100
    assert [name for name, _ in read] == ["a", "b", "c", "b"]


def test_who_may_keep_nothing_uses_what_is_there_and_drops_none_of_it(decoded, read):
    fetch(decoded, read, "a")
    for name in ("a", "b", "b"):
        fetch(decoded, read, name, limit=0)
    fetch(decoded, read, "a")
    assert [name for name, _ in read] == ["a", "b", "b"]
