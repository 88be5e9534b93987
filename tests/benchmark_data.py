"""Settings of a training run of a second, for the tests of the benchmark."""

from tiny_settings import TINY

__all__ = ["TRAIN"]

TRAIN = TINY | {"rerank": 1}
