"""Training on workers of a real cluster on this machine: the archive of one process, whoever is killed."""

import builtins
import json
import os
import signal

import pytest
from tiny import tiny_model

from unicuco_plugin.errors import EvaluationError, ModelMismatchError
from unicuco_plugin.executors.on_ray import RayWorkers, import_ray
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.training import train_profile

SETTINGS = Settings(
    tokens=64, seq_length=16, rank_tokens=32, rank_seq_length=16, initial=10, epochs=3, steps=5, pool=32, picks=4,
    starts=1, target="log", lag=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    import_ray()
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2**27, log_to_driver=False)
    yield ray
    ray.shutdown()
