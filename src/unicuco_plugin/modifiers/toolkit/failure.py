"""What llm-compressor raises, in a line of ours: whose error it is, and what to do."""

import math
import re
from collections.abc import Sequence

from unicuco_plugin.errors import ExportError, RecipeError, UnicucoError, clip, listed
from unicuco_plugin.models.tensors.memory import lacks_memory

__all__ = ["explain_failure"]

# As the toolkit lists linears whose columns a group size does not divide.
_INDIVISIBLE = re.compile(r"- (\S+) \(columns=(\d+), group_size=(\d+)\)")

# In the error of a model that it could not take apart.
_TRACED = "<Autowrapped "


def explain_failure(error: Exception) -> UnicucoError:
    """Make the error to raise of one that the toolkit raised."""
    found = _INDIVISIBLE.findall(str(error))
    if found:
        return _indivisible([(name, int(columns), int(group)) for name, columns, group in found])
    if _TRACED in str(error):
        return ExportError(
            "llm-compressor cannot trace this family's forward pass to calibrate block by block; stitch from a level "
            "database instead (--engine levels --levels DIR, in a recipe levels: DIR), or run it with pipeline basic"
        )
    if lacks_memory(error):
        return ExportError(
            f"llm-compressor's pass does not fit the memory of the device ({clip(str(error))}): lower the calibration "
            "windows (--samples) and their tokens (--seq-length), or let blocks wait (--offload cpu or disk)"
        )
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    return ExportError(f"llm-compressor failed on this recipe: {type(error).__name__}: {clip(reason, 200)}")


def _indivisible(linears: Sequence[tuple[str, int, int]]) -> RecipeError:
    """A group size that does not fit; its scheme is the recipe's, the rule compressed-tensors'."""
    group = linears[0][2]
    common = math.gcd(*(columns for _, columns, _ in linears))
    fits = [size for size in (2**power for power in range(3, 11)) if common % size == 0]
    told = listed([f"{clip(name, 50)} {columns}" for name, columns, _ in linears], 2, rest=" and {} more")
    advice = f"give a scheme with group_size {fits[-1]}" if fits else "give a scheme without groups"
    return RecipeError(
        f"group_size {group} does not divide the columns of {len(linears)} linears ({told}), as "
        f"compressed-tensors requires; {advice}, or put these linears under ignore"
    )
