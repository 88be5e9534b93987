r"""Structured pruning by several rules at the same budgets, with and without biases for what is removed.

    python benchmarks/structured_quality.py --model MODEL --profile PROFILE --calibration FILE… \
        --output benchmarks/results/structured-quality.json

Every rule says how much of each attention and MLP goes; which parts of a module go, and the biases, come from the
profile's own ranking (FLAP's fluctuation), the same for everyone. ``uniform``, ``flap`` and the reconstruction
(``interaction``, and of one kind of module alone ``attention_only`` and ``mlp_only``) are the peers' rules;
interactions are measured in four rounds up to the largest budget, once for all budgets. ``ours`` is the profile;
``depth`` the packaged profile of whole blocks, which removes a little more than was asked, and ``ours_at_depth`` ours
at that share. Divergence and perplexity are those of the reference's windows of texts that nothing was calibrated on.

Every cell is written to the output when it is measured; the same command goes on after a kill and measures none twice.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import TEXTS, decoder_of, reference_windows, write_result
from torch import Tensor

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.families.family import Kind
from unicuco_plugin.models.loading import load_tokenizer
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.objectives.interaction import InteractionMeter, InteractionPath, measure_path
from unicuco_plugin.objectives.reduced import ReducedWalk
from unicuco_plugin.peers.parts import parts_space, within_kind
from unicuco_plugin.scores.flap import flap_shares
from unicuco_plugin.scores.kinds import embed, kind_space
from unicuco_plugin.scores.ranked_parts import RankedParts
from unicuco_plugin.spaces.structured import StructuredSpace
from unicuco_plugin.texts.calibration import load_windows

DEPTH = "smollm2-135m-instruct-depth"
KINDS: dict[str, Kind | None] = {"interaction": None, "attention_only": "attention", "mlp_only": "mlp"}
METHODS = ("uniform", "flap", *KINDS, "ours", "depth", "ours_at_depth")


class Text:
    """One text's windows and the dense model's states on them.

    Args:
        decoder: The dense model.
        windows: ``m x L`` token ids.
    """

    def __init__(self, decoder: Decoder, windows: Tensor) -> None:
        self._runner, self._windows = BlockRunner(decoder, windows.shape[1]), windows
        self._walk = ReducedWalk(self._runner, windows, cache_bytes=0)

    @torch.inference_mode()
    def measure(self, kept: KeptParts) -> list[float]:
        """Divergence in nats per token, and perplexity."""
        [final] = self._walk.prefixes.finals(self._walk.choices([kept]))
        dense = self._walk.prefixes.dense
        kl = nll = 0.0
        for window, ids in enumerate(self._windows):
            for part in torch.arange(len(ids)).split(128):
                log_p, log_q = (
                    self._runner.logits(states[window : window + 1, part])[0].float().log_softmax(-1)
                    for states in (dense, final)
                )
                kl += (log_p.exp() * (log_p - log_q)).sum().item()
                targets = ids[part + 1 if part[-1] + 1 < len(ids) else part[1:]]
                nll -= log_q[: len(targets)].gather(1, targets[:, None]).sum().item()
        count, length = self._windows.shape
        perplexity = torch.tensor(nll / (count * (length - 1))).exp().item()
        return [round(kl / (count * length), 4), round(perplexity, 3)]


class Rules:
    """Strategies of every method, units to shares.

    Args:
        decoder: The dense model.
        profile: Ours.
        ranked: Which parts go first.
        windows: That interactions are measured on.
        furthest: The largest budget.
    """

    def __init__(
        self, decoder: Decoder, profile: Profile, ranked: RankedParts, windows: Tensor, furthest: float
    ) -> None:
        self._decoder, self._profile, self._ranked, self._furthest = decoder, profile, ranked, furthest
        self._space, self._depth = parts_space(decoder), load_profile(DEPTH)
        self._meter = InteractionMeter(decoder, windows)
        self._paths: dict[str, tuple[StructuredSpace, Tensor, InteractionPath]] = {}

    def units(self, method: str, share: float) -> dict[str, float]:
        """The strategy of a method at a share."""
        space = self._space
        if method == "ours":
            return self._profile.answer(sparsity=share).shares
        blocks = self._depth.answer(sparsity=share)
        if method == "depth":
            return {f"{block}.{half}": 1.0 for block in blocks.units for half in ("self_attn", "mlp")}
        if method == "ours_at_depth":
            return self._profile.answer(sparsity=blocks.sparsity).shares
        if method == "uniform":
            x = space.project(torch.zeros(1, len(space.units), dtype=torch.float64), share)[0]
        elif method == "flap":
            x = space.spend(flap_shares(space, self._ranked, share)[None], share)[0]
        else:
            x = self._by_interaction(method, share)
        return space.to_units(x)

    def _by_interaction(self, method: str, share: float) -> Tensor:
        kind, whole = KINDS[method], self._space
        inner, places = (
            (whole, torch.arange(len(whole.units))) if kind is None else kind_space(whole, self._decoder, kind)
        )
        budget = share if kind is None else within_kind(whole, inner, kind, share)
        if method not in self._paths:
            furthest = min(self._furthest * whole.params.sum() / inner.params.sum(), torch.tensor(inner.most)).item()
            path = measure_path(inner, lambda x: self._measure(inner, x), furthest)
            self._paths[method] = inner, places, path
        return embed(self._paths[method][2].assign(budget), places, whole)

    def _measure(self, space: StructuredSpace, x: Tensor) -> Tensor:
        return self._meter.measure(self._ranked.keep(self._decoder, space.to_units(x)), space.units)


def main() -> None:
    """Measure every missing cell."""
    args = _arguments()
    profile, decoder = load_profile(args.profile), decoder_of(args.model)
    windows = load_windows(args.calibration, load_tokenizer(args.model), count=4, length=256, seed=args.seed)
    ranked = profile.rank_parts()
    rules = Rules(decoder, profile, ranked, windows, max(args.budgets))
    texts = {text: Text(decoder, reference_windows(args.model, text)[: args.windows]) for text in TEXTS}
    space = parts_space(decoder)
    result: dict[str, Any] = {"profile": profile.name, "windows": args.windows, "cells": {}}
    if args.output.exists():
        result["cells"] = json.loads(args.output.read_text(encoding="utf8"))["cells"]
    for biased in (True, False):
        for share in args.budgets:
            for method in args.methods:
                cell = f"{method}/{share}/{'bias' if biased else 'plain'}"
                if cell in result["cells"]:
                    continue
                started = time.perf_counter()
                try:
                    units = rules.units(method, share)
                except RequestError as error:
                    result["cells"][cell] = {"refused": str(error)}
                    continue
                kept = replace(ranked, compensate=biased).keep(decoder, units)
                result["cells"][cell] = {
                    "sparsity": round(space.sparsity(space.from_units(units)[None]).item(), 5),
                    **{text: measured.measure(kept) for text, measured in texts.items()},
                    "seconds": round(time.perf_counter() - started, 1),
                    "units": {name: round(value, 4) for name, value in units.items()} if biased else None,
                }
                print(cell, {k: v for k, v in result["cells"][cell].items() if k != "units"}, flush=True)
                write_result(args.output, result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.125, 0.25, 0.375, 0.5])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--windows", type=int, default=16, help="of each text, 512 tokens long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
