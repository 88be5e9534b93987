"""What the benchmarks share: the reference's windows, the model, and how a result is written down."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unicuco_plugin.benchmark.provenance import provenance
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.strategy import Strategy

ROOT = Path(__file__).resolve().parent.parent
# Texts, tasks and reference rows, which are not in the repository: benchmarks/README.md says what they are.
SHARED = ROOT.parent / "shared"
TEXTS = ("encyclopedia", "techdocs")


def reference_windows(model: str, text: str) -> Tensor:
    """The 16 windows of 512 tokens (seed 7) of one text that the reference rows were evaluated on."""
    tokenizer = load_tokenizer(model)
    content = (SHARED / "data" / "text" / f"eval_{text}.txt").read_text(encoding="utf8")[:3_000_000]
    ids = tokenizer(content, return_tensors="pt").input_ids[0]
    starts = torch.randperm(len(ids) // 512 - 1, generator=torch.Generator().manual_seed(7))[:16] * 512
    return torch.stack([ids[start : start + 512] for start in starts])


def decoder_of(model: str) -> Decoder:
    """The dense model in bfloat16."""
    return find_decoder(load_model(model, dtype="bfloat16"))


def removed(strategy: Strategy) -> tuple[int, ...]:
    """Indices of the blocks that a depth strategy removes."""
    return tuple(sorted(int(name.rpartition(".")[2]) for name in strategy.units))


def write_result(
    path: Path, result: dict[str, Any], arguments: Sequence[str] | None = None, *, device: str = "cpu"
) -> None:
    """Write a result with the command, machine and versions that made it."""
    command = ["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *(arguments or sys.argv[1:])]
    record = provenance(shlex.join(command), device) | result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    print(f"written to {path}")
