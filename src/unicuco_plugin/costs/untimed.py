"""Which strategies a device's table says nothing of, and what it files checkpoints under."""

from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.schemes import DENSE, REMOVED
from unicuco_plugin.traits import traits_of

__all__ = ["timed_as", "why_untimed"]


def timed_as(space: str, *, absent: bool) -> str:
    """What observations of a space's checkpoints are filed under: halves that leave run otherwise than silenced ones.

    Args:
        space: Its name.
        absent: Whether halves leave by themselves, in the form ``deci``.
    """
    return f"{space}, deci" if absent and traits_of(space).halves else space


def why_untimed(costs: TableCosts) -> str:
    """Why times cannot be asked of strategies; empty where they can."""
    if costs.table.choices:
        return _why_unstored(costs)
    if not costs.physical and not costs.table.blocks:
        return (
            "it zeroes single weights, and zeros are multiplied like other numbers: unstructured sparsity brings no "
            "speed; ask a profile that takes out blocks, heads or neurons"
        )
    if costs.device is None:
        return (
            "it needs times of the device: unicuco profile-device --model M --output device.json, then --device-table "
            "device.json (in Python load_profile(…, device_table=…))"
        )
    # In the form deci modules leave by themselves, and no block with them.
    if costs.device.device.engine == "vllm" and costs.table.parts and costs.table.blocks:
        return (
            "vLLM does not load the form compact that its strategies are exported in: profile the device with --engine "
            "transformers, or ask a profile of blocks, or one trained with --format deci"
        )
    return ""


def _why_unstored(costs: TableCosts) -> str:
    offered = dict.fromkeys(name for row in costs.table.choices for name, *_ in row if name not in (DENSE, REMOVED))
    if costs.device is None or not costs.device.stored:
        return (
            "its strategies store weights by schemes, and it needs their times: unicuco profile-device --engine vllm "
            f"--schemes {','.join(offered)}, as far as the device runs them, then --device-table FILE"
        )
    known = {(unit, kind.scheme) for kind in costs.device.stored for unit in kind.units}
    rows = zip(costs.units, costs.table.choices, strict=True)
    own = {(unit, name) for unit, row in rows for name, *_ in row if name in offered}
    missing = dict.fromkeys(name for _, name in sorted(own - known))
    if not missing:
        return ""
    return (
        f"the device table has no times of {', '.join(missing)}, which its strategies may have: profile the device "
        "with these --schemes, too, or ask for bits, or max_memory"
    )
