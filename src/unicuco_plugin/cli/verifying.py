"""``unicuco prune --verify-latency``: refused before a model is loaded, or carried out once the checkpoint is there."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unicuco_plugin.errors import RequestError
from unicuco_plugin.strategy import Strategy

if TYPE_CHECKING:  # it brings torch with it
    from unicuco_plugin.modifiers.export.result import Export

__all__ = ["check_verifiable", "verify"]


def check_verifiable(strategy: Strategy, fields: dict[str, Any]) -> None:
    """Refuse an answer that has no times in the form that it will get.

    Raises:
        RequestError: If it is so; the message says why.
        DeviceTableError: If the table cannot be measured into here.
    """
    from unicuco_plugin.answering import load_profile
    from unicuco_plugin.costs.untimed import why_untimed
    from unicuco_plugin.timing.verify import check_here

    profile = load_profile(fields["profile"], device_table=fields["device_table"])
    traits, format = strategy.traits, fields["format"]
    why = "" if strategy.latency is not None else why_untimed(profile.costs)  # of an answer more may be known
    if not why and traits.cuts and format == "stock":
        why = "format stock has the dense model's shape, and runs as fast; take format compact"
    if not why and traits.halves and format == "deci" and not profile.costs.physical:
        why = "its times are those of silenced halves, which format deci lets go; leave --format out"
    if why:
        raise RequestError(f"--verify-latency has nothing to compare: {why}")
    if strategy.request.load is not None:
        check_here(fields["device_table"], strategy.request.load, fields["vllm_python"])


def verify(done: "Export", fields: dict[str, Any]) -> str:
    """Time the checkpoint beside the dense model, whose memory and the pruned model's are free by now."""
    from unicuco_plugin.report.device import describe_verified
    from unicuco_plugin.timing.verify import verify_latency

    gc.collect()
    [strategy], table = done.strategies, Path(fields["device_table"])
    options = {"revision": fields["revision"], "format": done.format, "python": fields["vllm_python"]}
    found = verify_latency(done.path, strategy, table, fields["model"], **options)
    said = describe_verified(found, strategy.latency) if strategy.latency else ""
    return f"{said}\n{'':11} written to {table}, which corrects later predictions under this load"
