"""A profile of the analytic problem, made in seconds and without a language model."""

from collections.abc import Sequence

from analytic import SETTINGS, SPACE, AnalyticMeasure
from torch import Tensor

from unicuco_plugin.costs.table import CostTable
from unicuco_plugin.policy.evidence import compare
from unicuco_plugin.policy.scalarization import tchebycheff
from unicuco_plugin.profile_record import ProfileRecord
from unicuco_plugin.search.result import TrainingResult
from unicuco_plugin.search.trainer import train
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.training.outcome import _archive

__all__ = ["TOTAL_BYTES", "TOTAL_PARAMS", "build", "train_analytic"]

TOTAL_PARAMS, TOTAL_BYTES = 73, 146


def train_analytic(**changes: object) -> TrainingResult:
    """Train with the settings of a few seconds."""
    fast = {
        "initial": 20,
        "epochs": 3,
        "steps": 60,
        "picks": 6,
        "pool": 100,
        "starts": 2,
        "target": "log",
        "imitation": 40,
    }
    return train(SPACE, AnalyticMeasure(), tchebycheff, SETTINGS.model_copy(update=fast | changes))


def build(
    result: TrainingResult, *, archive: slice = slice(None), **changes: object
) -> tuple[ProfileRecord, dict[str, dict[str, Tensor]]]:
    """Record and tensors, as training writes them; ``archive`` keeps some of the measured strategies only."""
    confirmed = compare(SPACE, result.posterior, result.confirmed)
    reranked = compare(SPACE, result.posterior, result.reranked)
    entries: Sequence[object] = _archive(result, SPACE, {})[archive]
    fields = {
        "name": "analytic", "model": ModelReference(name="none", fingerprint="0-0"), "space": "depth",
        "objective": "divergence", "scalarization": "tchebycheff", "quality": "log", "target": result.posterior.target,
        "units": SPACE.units,
        "sizes": CostTable(
            unit_params=SPACE.unit_params, unit_bytes=(10,) * 10, total_params=TOTAL_PARAMS, total_bytes=TOTAL_BYTES,
            dtype="bfloat16",
        ),
        "ideal": result.scaling.ideal, "nadir": result.scaling.nadir, "shift": confirmed.shift,
        "shift_std": confirmed.noise, "reranked_shift": reranked.shift, "noise": reranked.noise, "archive": entries,
        "provenance": {"seed": 0, "evaluation_tokens": 0},
    }  # fmt: skip
    net = {name: value.detach().float().contiguous() for name, value in result.net.state_dict().items()}
    return ProfileRecord(**(fields | changes)), {"stratnet": net, "surrogate": result.posterior.to_tensors()}
