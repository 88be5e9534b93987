"""What a finished search leaves in a profile: its record, with every measured strategy once."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from scipy.stats import t as student_t

from unicuco_plugin.costs.table import CostTable
from unicuco_plugin.journal.journal import Measurement
from unicuco_plugin.objectives.floor import LEAST
from unicuco_plugin.policy.evidence import compare
from unicuco_plugin.profile_record import ArchiveEntry, Confirmation, ProfileRecord
from unicuco_plugin.search.result import TrainingResult
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.strategy import ModelReference, Plain

__all__ = ["build_record"]


def build_record(
    result: TrainingResult,
    space: Space,
    *,
    name: str,
    model: ModelReference,
    objective: str,
    settings: Settings,
    sizes: CostTable,
    plain: Mapping[str, Plain],
    compensation: str | None = None,
    provenance: dict[str, Any],
) -> ProfileRecord:
    """Write down a search.

    Args:
        result: What it found.
        space: Of its strategies.
        name: The profile's.
        model: The dense model.
        objective: What was measured.
        settings: How the search went about it.
        sizes: What the units weigh.
        plain: Keys of strategies that plain methods would answer with → what those are called.
        compensation: What candidates were corrected with; None for nothing.
        provenance: How it was made.
    """
    confirmed = compare(space, result.posterior, result.confirmed)
    reranked = compare(space, result.posterior, result.reranked)
    return ProfileRecord(
        name=name,
        model=model,
        space=space.name,
        objective=objective,
        scalarization=settings.scalarization,
        quality=settings.quality,
        target=result.posterior.target,
        units=space.units,
        bounds=space.bounds,
        needed=space.needed,
        sizes=sizes,
        ideal=result.scaling.ideal,
        nadir=result.scaling.nadir,
        shift=confirmed.shift,
        shift_std=confirmed.noise,
        reranked_shift=reranked.shift,
        noise=reranked.noise,
        archive=_archive(result, space, plain),
        compensation=compensation,
        provenance=provenance,
    )


def _archive(result: TrainingResult, space: Space, plain: Mapping[str, Plain]) -> tuple[ArchiveEntry, ...]:
    """Every measured strategy once, with what ranking and confirming say of it."""
    confirmed = {row.key: row for row in result.confirmed}
    reranked = {row.key: row.value for row in result.reranked}
    ranked = {row.key: row.value for row in result.ranked}
    entries = []
    for key in {**ranked, **reranked, **confirmed}:
        x = space.parse(key)
        predicted = result.posterior.log_predict(x[None])[0].exp().item()
        row = confirmed.get(key)
        entries.append(
            ArchiveEntry(
                strategy=key,
                rank=ranked.get(key, predicted),
                measured=key in ranked,
                reranked=reranked.get(key),
                confirmed=_confirmation(row) if row else None,
                plain=plain.get(key),
            )
        )
    return tuple(entries)


def _confirmation(row: Measurement) -> Confirmation:
    """Student's t interval of the mean over windows; one window says nothing of its own spread.

    Where the search was given the floor, the mean is what was measured, and the interval ends no lower than the floor.
    """
    count = len(row.per_window)
    mean, least = row.value, 0.0
    if mean <= LEAST:
        mean, least = max(math.fsum(row.per_window) / max(count, 1), 0.0), LEAST
    half = mean
    if count > 1:
        values = torch.tensor(row.per_window, dtype=torch.float64)
        half = float(student_t.ppf(0.95, count - 1)) * values.std().item() / math.sqrt(count)
    return Confirmation(mean=mean, interval90=(max(mean - half, 0.0), max(mean + half, least)))
