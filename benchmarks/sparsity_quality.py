r"""Non-uniform sparsity beside its peers: the same engine, calibration text and final pass for everyone.

    python benchmarks/sparsity_quality.py --model MODEL --profile PROFILE --levels DIR --calibration FILE… \
        --budgets 0.5 0.6 0.7 --output benchmarks/results/sparsity-quality.json

Every method says how much each unit loses; the toolkit's sequential SparseGPT pass carries it out on the same windows;
divergence and perplexity are measured on the reference's windows of texts that nothing was calibrated on. Beside those
of ``--stitched`` stands the checkpoint stitched from the level database, without a pass. EvoPress (``super_fast``, per
linear, minibatches out of ``--pool`` windows) gets ten times our tokens, over all budgets together, or
``--evopress-tokens``.

Every cell is written to the output when it is measured; the same command goes on after a kill and measures none twice.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from common import TEXTS, decoder_of, reference_windows, write_result
from llmcompressor.modifiers.pruning import SparseGPTModifier

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.evaluation.comparison import compare_models
from unicuco_plugin.levels.stitch import Stitcher
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.peers.peer import PeerRequest
from unicuco_plugin.plugins.manager import make_peer
from unicuco_plugin.request import Request
from unicuco_plugin.spaces.plan import plan_counts
from unicuco_plugin.strategy import Divergence, Strategy
from unicuco_plugin.texts.calibration import load_windows

PEERS = ("uniform", "owl", "dlp", "atp", "evopress")
TIMES = 10


def main() -> None:
    """Measure every missing cell."""
    args = _arguments()
    profile, levels, decoder = load_profile(args.profile), Levels.open(args.levels), decoder_of(args.model)
    tokenizer = load_tokenizer(args.model)
    windows = load_windows(args.calibration, tokenizer, count=args.windows, length=512, seed=args.seed)
    pool = load_windows(args.calibration, tokenizer, count=args.pool, length=512, seed=args.seed)
    ours = profile.provenance["evaluation_tokens"]
    result: dict[str, Any] = {"profile": profile.name, "windows": args.windows, "cells": {}}
    if args.output.exists():
        result["cells"] = json.loads(args.output.read_text(encoding="utf8"))["cells"]
    budget = args.evopress_tokens or TIMES * ours // len(args.budgets)

    def peer(name: str, share: float) -> tuple[dict[str, float], int, float, Mapping[str, Any]]:
        evolving = name == "evopress"
        found = make_peer(name)(
            PeerRequest(
                decoder,
                pool if evolving else windows,
                share,
                space="sparsity",
                levels=levels,
                seed=args.seed,
                setting="super_fast" if evolving else "official",
                token_budget=budget if evolving else None,
                journal=args.output.with_suffix(f".{name}-{share}.sqlite") if evolving else None,
            )
        )
        return found.units, found.tokens, found.seconds, found.details

    for share in args.budgets:
        for name in args.methods:
            cell = f"{name}/{share}"
            if cell in result["cells"]:
                continue
            started = time.perf_counter()
            details: Mapping[str, Any] = {}
            if name == "ours":
                strategy = profile.answer(sparsity=share)
                units, tokens, seconds = strategy.shares, ours, time.perf_counter() - started
            else:
                units, tokens, seconds, details = peer(name, share)
            result["cells"][cell] = {
                "tokens": tokens,
                "seconds": round(seconds, 2),
                "details": _plain(details),
                "sparsity": sum(plan_counts(units, levels.sizes).values()) / sum(levels.sizes.values()),
                "stitched": _stitched(args, decoder, levels, units) if name in args.stitched else None,
                "sparsegpt": None if args.stitched_only else _passed(args, profile, units, share, windows),
            }
            print(cell, result["cells"][cell], flush=True)
            write_result(args.output, result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--levels", type=Path, required=True)
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.6, 0.7])
    parser.add_argument("--methods", nargs="+", default=[*PEERS, "ours"])
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evopress-tokens", type=int, help="for each budget, instead of ten times ours over all")
    parser.add_argument("--pool", type=int, default=128, help="windows that EvoPress draws its minibatches from")
    parser.add_argument("--stitched", nargs="*", default=["uniform", "ours"], help="methods to measure stitched too")
    parser.add_argument("--stitched-only", action="store_true", help="leave the toolkit's pass out")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def _stitched(args: argparse.Namespace, decoder: Decoder, levels: Levels, units: dict[str, float]) -> dict[str, Any]:
    """Compare the dense model with itself stitched; the dense one is loaded beside it."""
    plan = plan_counts(units, levels.sizes)
    with Stitcher(decoder, levels) as stitcher:
        stitcher.apply(plan)
        return _measure(args, decoder.model)


def _passed(
    args: argparse.Namespace, profile: Profile, units: dict[str, float], share: float, windows: torch.Tensor
) -> dict[str, Any]:
    """Run the toolkit's pass, and measure the checkpoint that it leaves."""
    unknown = Divergence(mean=0.0, interval90=(0.0, 0.0), measured=False)
    strategy = Strategy(
        space="sparsity",
        model=profile.model,
        request=Request.of(sparsity=share),
        sparsity=share,
        params=profile.record.sizes.total_params,
        bytes=profile.record.sizes.total_bytes,
        source="archive",
        divergence=unknown,
        units=units,
    )
    recipe = [
        SparsityProfileModifier(strategy=strategy.to_dict()),
        SparseGPTModifier(sparsity=share, ignore=["re:.*lm_head"]),
    ]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pruned"
        done = prune(args.model, recipe, output, calibration=windows, pipeline="sequential")
        return {"pass_seconds": round(done.seconds, 1), **_measure(args, load_model(output, dtype="bfloat16"))}


def _measure(args: argparse.Namespace, pruned: Any) -> dict[str, Any]:
    dense = load_model(args.model, dtype="bfloat16")
    found: dict[str, Any] = {}
    for text in TEXTS:
        comparison = compare_models(dense, pruned, reference_windows(args.model, text))
        if comparison.divergence is None or comparison.pruned is None:
            raise RuntimeError("two models were compared")
        found[text] = [round(comparison.divergence.mean, 4), round(comparison.pruned.exp().mean, 3)]
    return found


def _plain(details: Any, convert: Callable[[Any], Any] = str) -> Any:
    return json.loads(json.dumps(details, default=convert))


if __name__ == "__main__":
    main()
