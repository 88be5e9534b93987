"""Settings of a training run of a second, for the tests of all rooms."""

from typing import Any

from unicuco_plugin.search.settings import Settings

__all__ = ["TINY", "tiny_settings"]

TINY: dict[str, Any] = {
    "tokens": 64, "seq_length": 16, "rank_tokens": 32, "rank_seq_length": 16, "initial": 10, "epochs": 1, "steps": 5,
    # The default of 400 takes longer than all the rest.
    "imitation": 10,
    "pool": 32, "picks": 2, "starts": 1,
}  # fmt: skip


def tiny_settings(**changes: Any) -> Settings:
    """These settings but for changes."""
    return Settings(**(TINY | changes))
