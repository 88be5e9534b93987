"""AutoScheme: the scores of AutoRound's own code, added up over what a server packs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.tensors.gradients import gradients_inside
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.models.tensors.storage import compute_device
from unicuco_plugin.peers.bits import BitsProblem, score_once
from unicuco_plugin.peers.peer import PeerRequest, PeerResult
from unicuco_plugin.progress import Progress
from unicuco_plugin.schemes import parse_scheme
from unicuco_plugin.scores.single_units import linear_schemes

__all__ = ["AutoScheme"]

# Tokens of one backward pass, whose gradients are summed before their size is taken: 8 samples of 256, its defaults.
_BATCH_TOKENS = 2048
# What it leaves behind on the linears that it scored.
_LEFT = ("iters", "tuning_device")


@dataclass(frozen=True)
class AutoScheme:
    """The knapsack of ``|gradient x change|`` of weights, summed over a linear, as AutoRound's AutoScheme scores it.

    Its own code wraps, quantises (to nearest) and scores every linear in every scheme, on the model as it is quantised
    in that scheme. Groups, budget and text are ours.

    Source:
        AutoRound (Intel), ``auto_round/auto_scheme/delta_loss.py``.
    """

    spaces: ClassVar[tuple[str, ...]] = ("precision",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows", "levels", "journal"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Score and solve; see :class:`Peer`. A journal keeps the scores, which serve every budget.

        Raises:
            RequestError: Also if the database has schemes that are not of integers for weights alone.
            JournalError: If the journal is in use, damaged, or belongs to other arguments.
        """
        return score_once(self, request, _score)


def _score(problem: BitsProblem) -> tuple[dict[str, dict[str, float]], int]:
    request, offered = problem.request, linear_schemes(problem.space, problem.units)
    # All linears in as many bits at a time; where some of them have these bits in two sizes of groups, in two passes.
    rungs = sorted({_rung(scheme) for row in offered.values() for scheme in row})
    found: dict[str, dict[str, float]] = {name: {} for name in offered}
    fitting, passes = Fitting(1, ("batch", "batches are run")), 0
    for done, rung in enumerate(rungs):
        request.progress(Progress("scoring with AutoRound", done, len(rungs)))
        left = {name: [scheme for scheme in row if _rung(scheme) == rung] for name, row in offered.items()}
        while chosen := {name: row.pop() for name, row in left.items() if row}:
            for name, score in fitting(partial(_pass, request.decoder, chosen, request.windows)).items():
                found[name][chosen[name]] = score
            passes += 3  # forward and backward
    request.progress(Progress("scoring with AutoRound", len(rungs), len(rungs)))
    return found, passes * request.windows.numel()


def _pass(decoder: Decoder, schemes: dict[str, str], windows: Tensor, _: int = 1) -> dict[str, float]:
    """AutoRound's score of each linear in one scheme."""
    from auto_round.auto_scheme import delta_loss, utils  # noqa: PLC0415 - takes 20 seconds

    options = {name: _option(scheme) for name, scheme in schemes.items()}
    linears = decoder.all_linears()
    asking = {name: linears[name].weight.requires_grad for name in options}
    device = compute_device(decoder.model)
    batches = [{"input_ids": sent(part, device)} for part in windows.split(max(1, _BATCH_TOKENS // windows.shape[1]))]
    for name, option in options.items():
        utils.apply_quant_scheme(decoder.model, [name], {}, option)
    try:
        with gradients_inside(decoder.model), torch.enable_grad(), _reading(delta_loss, batches):
            found = delta_loss.get_score_for_scheme(
                decoder.model,
                None,
                list(options),
                {},
                "",
                need_weight_grad=True,
                enable_torch_compile=False,
                low_gpu_mem_usage=False,
            )
    finally:
        utils.remove_quant_scheme(decoder.model)
        for name, asked in asking.items():
            if decoder.model.get_submodule(name) is not linears[name]:  # it was broken off, and has left its wrapper
                decoder.model.set_submodule(name, linears[name])
                linears[name].weight.grad = None
            linears[name].weight.requires_grad_(asked)
            for attribute in _LEFT:
                vars(linears[name]).pop(attribute, None)
    return {name: float(score) for name, (_, score) in found.items()}


def _rung(scheme: str) -> tuple[int, bool]:
    ours = parse_scheme(scheme)
    return ours.bits, ours.symmetric


def _option(scheme: str) -> dict[str, Any]:
    """A scheme in AutoRound's words."""
    from auto_round.schemes import QuantizationScheme  # noqa: PLC0415

    ours = parse_scheme(scheme)
    if ours.format != "pack-quantized":
        raise RequestError(f"auto_scheme scores schemes of integers for weights alone, W2A16 to W8A16, got {scheme}")
    group = -1 if ours.group is None else ours.group
    return asdict(QuantizationScheme(ours.bits, group, ours.symmetric, "int", act_bits=16))


@contextmanager
def _reading(delta_loss: Any, batches: list[dict[str, Tensor]]) -> Iterator[None]:  # noqa: ANN401 - a module
    """Let its code read our windows: it names text by a dataset of the hub or a file, which a tokenizer then cuts."""
    own = delta_loss.get_dataloader
    delta_loss.get_dataloader = lambda *_, **__: batches
    try:
        yield
    finally:
        delta_loss.get_dataloader = own
