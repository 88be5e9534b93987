"""What a server makes of a quantised checkpoint just written."""

from pathlib import Path

from unicuco_plugin.errors import CheckpointError, ExportError
from unicuco_plugin.serving.finding import Finding
from unicuco_plugin.serving.verdict import check_serving

__all__ = ["check_served"]

_SPLIT = "split_unit"


def check_served(folder: Path) -> str:
    """Refuse what vLLM would take for another model, and say what else it thinks of a checkpoint.

    A scheme that the recipe asks for and vLLM does not load is the user's to choose, for Transformers loads it, which
    has been seen by then: that is said. Nobody asks for what loads as something else, nor for linears of one unit in
    several schemes, which no server packs: these are refused.

    Args:
        folder: A checkpoint, which Transformers has loaded.

    Returns:
        A sentence for the user and the card; empty where vLLM loads it everywhere, or nothing is quantised.

    Raises:
        ExportError: If vLLM would load another model without a word, or the linears of a unit differ in scheme where
            vLLM is known to pack linears of these names.
    """
    try:
        verdict = check_serving(folder)
    except CheckpointError as error:
        # Without the place where the folder stands for now.
        return f"what vLLM makes of it is not known: {str(error).replace(f'{folder}/', '').replace(f'{folder}: ', '')}"
    wrong = [entry for entry in verdict.errors if entry.outcome == "silent" or entry.rule == _SPLIT]
    if wrong:
        raise ExportError(f"vLLM would not load this checkpoint right: {_say(wrong[0])}")
    if verdict.errors:
        more = len(verdict.errors) - 1
        others = f" ({more} more: unicuco check)" if more else ""
        return f"vLLM does not load this checkpoint, Transformers does: {_say(verdict.errors[0])}{others}"
    lacking = [entry for entry in verdict.findings if entry.rule == "kernel"]
    return "; ".join(map(_say, lacking))


def _say(finding: Finding) -> str:
    return f"{finding.where}: {finding.message}"
