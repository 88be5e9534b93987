"""The windows of a run: disjoint, one lot for each purpose."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unicuco_plugin.journal.measuring import CONFIRM, RANK, RERANK
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.loading import Tokenizer
from unicuco_plugin.models.reach import Reach
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.texts.calibration import calibration_hash, load_windows
from unicuco_plugin.texts.selfcalibration import generate_windows, own_cache
from unicuco_plugin.training.source import CalibrationText

__all__ = ["RunWindows", "draw_windows"]

# Windows of full length that parts are ranked on: 4 096 tokens by default. On SmolLM2 a quarter of the head groups and
# neurons chosen from 2 048 tokens cost 1.578 nats, from 4 096 1.579.
_PART_WINDOWS = 8
# Windows of full length that corrections are solved from, and their tokens at most, but for the fewest windows: a
# quarter of them chooses. docs/compensation.md says what more of them are worth.
_CORRECTION_WINDOWS, _CORRECTION_TOKENS, _FEWEST = 32, 16_384, 4


@dataclass(frozen=True)
class RunWindows:
    """Disjoint calibration windows of a run.

    Attributes:
        fidelities: ``m x L`` token ids of each fidelity.
        parts: Those that parts of modules are ranked on; none where they need not be.
        corrections: Those that corrections are solved from; none where there is no compensation.
        source: Where they come from, for the provenance; its ``hash`` names all of them.
    """

    fidelities: dict[str, Tensor]
    parts: Tensor
    corrections: Tensor
    source: dict[str, Any]


def draw_windows(
    decoder: Decoder,
    tokenizer: Tokenizer,
    text: CalibrationText,
    settings: Settings,
    output: Path,
    *,
    ranking: bool,
    correcting: bool = False,
) -> RunWindows:
    """Draw windows for every purpose from one shuffled lot.

    Args:
        decoder: The dense model, which writes the text itself where there is none.
        tokenizer: The model's.
        text: To cut windows from.
        settings: How many windows of which length, and the seed.
        output: The profile's folder, where text that the model wrote is kept.
        ranking: Whether parts will be ranked.
        correcting: Whether corrections will be solved.

    Raises:
        CalibrationError: If the text is missing, unreadable or too short, or the model cannot be given such windows.
    """
    rank = settings.rank_tokens // settings.rank_seq_length
    counts = [rank, rank if settings.rerank else 0, settings.tokens // settings.seq_length]
    counts.append(_PART_WINDOWS if ranking else 0)
    fitting = min(_CORRECTION_WINDOWS, max(_CORRECTION_TOKENS // settings.seq_length, _FEWEST))
    counts.append(fitting if correcting else 0)
    how = {"count": sum(counts), "length": max(settings.seq_length, settings.rank_seq_length), "seed": settings.seed}
    if text.sources:
        reach = Reach.of(decoder.model)
        drawn = load_windows(text.sources, tokenizer, split=text.split, samples=text.documents, reach=reach, **how)
    else:
        drawn = generate_windows(decoder.model, tokenizer, cache_dir=own_cache(output), **how)
    first, second, confirm, parts, corrections = drawn.split(counts)
    fidelities = {
        RANK: first[:, : settings.rank_seq_length],
        RERANK: second[:, : settings.rank_seq_length],
        CONFIRM: confirm[:, : settings.seq_length],
    }
    sources = list(text.sources) or ["self-generated"]
    corrections = corrections[:, : settings.seq_length]
    return RunWindows(
        fidelities, parts, corrections, {"sources": sources, "hash": calibration_hash(drawn), "windows": sum(counts)}
    )
