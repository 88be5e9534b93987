"""One journal's measurements and notes taken into another."""

from pathlib import Path

from unicuco_plugin.journal.file import clear, hold, reporting
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.schema import APPLICATION

__all__ = ["merge_journal", "remove_journal"]


def merge_journal(other: Journal, journal: Journal) -> None:
    """Record what another journal holds and this one lacks; what both hold stays as it is here.

    Args:
        other: Open, of the same header.
        journal: Open; each fidelity is on disk whole or not at all.

    Raises:
        JournalError: If one cannot be read, or this one not written.
    """
    for fidelity in other.fidelities():
        rows = other.measurements(fidelity)
        known = journal.lookup(fidelity, [row.key for row in rows])
        journal.record(row for row in rows if row.key not in known)
    notes = journal.notes()
    for name, value in other.notes().items():
        if name not in notes:
            journal.write_note(name, value)


def remove_journal(path: Path) -> None:
    """Remove a journal that nobody has open, and its lock.

    Raises:
        JournalError: If somebody has it, or it is no journal.
    """
    with reporting(path), hold(path):
        clear(path, APPLICATION)
        path.with_name(f"{path.name}.lock").unlink()
