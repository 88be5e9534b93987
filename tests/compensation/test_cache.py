"""What stays in a cache, and what goes first."""

from unicuco_plugin.compensation.cache import Cache, Kind


def filled(most):
    large, small = Kind(len), Kind(len)
    cache = Cache(most, [large, small])
    for key in range(3):
        cache.add(large, key, "x" * 10)
    for key in range(3):
        cache.add(small, key, "x")
    return cache, large, small


def keys(kind, count=4):
    return [key for key in range(count) if kind.find(key) is not None]


def test_everything_stays_while_there_is_room():
    _, large, small = filled(33)
    assert keys(large) == keys(small) == [0, 1, 2]
    assert large.nbytes + small.nbytes == 33


def test_the_first_kind_goes_first_and_of_it_what_was_used_least_recently():
    cache, large, small = filled(33)
    assert large.find(0) == "x" * 10
    assert cache.add(small, 3, "x") == "x"
    assert keys(large) == [0, 2] and keys(small) == [0, 1, 2, 3]
    cache.add(large, 3, "x" * 10)
    assert keys(large) == [2, 3] and keys(small) == [0, 1, 2, 3]
    assert large.nbytes + small.nbytes == 24


def test_the_last_value_of_each_kind_stays_without_any_room():
    cache, large, small = filled(0)
    assert keys(large) == [2] and keys(small) == [2]
    assert cache.add(small, 3, "xyz") == "xyz"
    assert keys(small) == [3] and small.nbytes == 3
