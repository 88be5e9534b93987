"""What the benchmarks share: the reference's windows, the model, and how a result is written down."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from unicuco_plugin.answering import Profile
from unicuco_plugin.benchmark.provenance import provenance
from unicuco_plugin.levels.gather import Hessians, gather_hessians
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.texts.calibration import load_windows

ROOT = Path(__file__).resolve().parent.parent
# Texts, tasks and reference rows, which are not in the repository: benchmarks/README.md says what they are.
SHARED = ROOT.parent / "shared"
TEXTS = ("encyclopedia", "techdocs")
# Fresh strategies: so many around uniform, and so many around an answer, at budgets so near to one.
HALF, WITHIN = 30, 0.01


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


def block_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark on the linears of one block, which :func:`gather_block` reads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--block", type=int, default=12)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--output", type=Path, required=True)
    return parser


def gather_block(args: argparse.Namespace, device: str = "cpu") -> tuple[Hessians, dict[str, nn.Linear]]:
    """Hessians of one block's linears, from real text through the dense model, and the linears."""
    decoder = find_decoder(load_model(args.model, device=device))
    windows = load_windows(args.calibration, load_tokenizer(args.model), count=args.windows, length=args.length, seed=0)
    runner = BlockRunner(decoder, args.length)
    states = torch.cat([runner.embed(part) for part in windows.split(8)])
    for index in range(args.block):
        states = torch.cat([runner.run(index, part) for part in states.split(8)])
    hessians, _ = gather_hessians(runner, args.block, states, 8)
    return hessians, decoder.linears(args.block)


def removed(strategy: Strategy) -> tuple[int, ...]:
    """Indices of the blocks that a depth strategy removes."""
    return tuple(sorted(int(name.rpartition(".")[2]) for name in strategy.units))


def draw_around(profile: Profile, request: Request, budget: float, generator: torch.Generator) -> Tensor:
    """Fresh strategies, ``2 * HALF x d``: scores with normal noise of 0.5, around uniform and around an answer."""
    space = profile.search_space
    answer = space.scores(space.from_units(profile.answer(request).units)[None])
    rows = []
    for centre in (torch.zeros_like(answer), answer):
        for _ in range(HALF):
            share = budget + WITHIN * (2.0 * torch.rand(1, generator=generator).item() - 1.0)
            noise = 0.5 * torch.randn(answer.shape, generator=generator, dtype=torch.float64)
            rows.append(space.project(centre + noise, share))
    return torch.cat(rows)


def rank_correlation(score: Tensor, measured: Tensor) -> float:
    """Spearman's."""
    return round(float(spearmanr(score, measured).statistic), 4)


def write_result(
    path: Path, result: dict[str, Any], arguments: Sequence[str] | None = None, *, device: str = "cpu"
) -> None:
    """Write a result with the command, machine and versions that made it."""
    command = ["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *(arguments or sys.argv[1:])]
    record = provenance(shlex.join(command), device) | result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    print(f"written to {path}")
