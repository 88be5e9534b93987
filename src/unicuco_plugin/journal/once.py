"""What a journal holds is read, what it lacks is made and kept: nothing is measured or worked out twice."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from unicuco_plugin.errors import PluginError, clip
from unicuco_plugin.journal.journal import Journal, Measurement
from unicuco_plugin.objectives.objective import Evaluation

__all__ = ["measure_once", "note_once", "record_found"]


def measure_once(
    journal: Journal, fidelity: str, keys: Sequence[str], measure: Callable[[list[int]], Sequence[Evaluation]]
) -> list[Measurement]:
    """Look strategies up, measure the others together, and record those in one transaction.

    Args:
        journal: Open.
        fidelity: On what they are measured.
        keys: ``n`` canonical identities of strategies, which may recur.
        measure: From places in ``keys``, of strategies that the journal lacks and none of them twice, to what they
            score, in that order; not called where there is none.

    Returns:
        ``n`` measurements, in the order of the keys; all of them are on disk.

    Raises:
        PluginError: If there is not one value for each, or one is negative or not finite; then none is recorded.
        JournalError: If the journal cannot be read or written.
    """
    known = journal.lookup(fidelity, keys)
    new = {key: place for place, key in enumerate(keys) if key not in known}
    if new:
        rows = record_found(journal, fidelity, list(new), measure(list(new.values())))
        known |= {row.key: row for row in rows}
    return [known[key] for key in keys]


def record_found(
    journal: Journal, fidelity: str, keys: Sequence[str], found: Sequence[Evaluation]
) -> list[Measurement]:
    """Record what strategies score, which the journal lacks, in one transaction.

    Args:
        journal: Open.
        fidelity: On what they were measured.
        keys: Canonical identities of ``n`` strategies, each once.
        found: What they score, in that order.

    Raises:
        PluginError: If there is not one value for each, or one is negative or not finite; then none is recorded.
        JournalError: If the journal cannot be written.
    """
    if len(found) != len(keys):
        raise PluginError(f"an objective must give one value per strategy, got {len(found)} for {len(keys)}")
    for key, e in zip(keys, found, strict=True):
        if not (math.isfinite(e.value) and e.value >= 0.0):
            raise PluginError(f"an objective's value must be finite and at least 0, got {e.value} for {clip(key)}")
    rows = [
        Measurement(key, fidelity, e.value, e.per_window, e.tokens, e.seconds)
        for key, e in zip(keys, found, strict=True)
    ]
    journal.record(rows)
    return rows


def note_once(journal: Journal, name: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - plain JSON data
    """Read a note, or make and write it: plain JSON data that is on disk when this returns.

    Raises:
        JournalError: If the journal cannot be read or written.
    """
    notes = journal.notes()
    if name not in notes:
        notes[name] = make()
        journal.write_note(name, notes[name])
    return notes[name]
