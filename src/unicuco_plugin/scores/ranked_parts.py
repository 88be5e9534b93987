"""Parts of every module in the order in which they go, and what they give on average."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.parts.channels import measure_channels, measure_effects
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import Parts, find_parts, spread
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.payload import Payload
from unicuco_plugin.scores.ranking import Ranking

__all__ = ["RankedParts", "rank_parts"]


@dataclass(frozen=True)
class RankedParts:
    """What turns shares of modules into kept parts, without text.

    Attributes:
        scores: Module name → a score for each of its parts, float32; the lowest go first, the earlier of equals.
        means: Module name → the mean input of each channel of its output projection, float32.
        tokens: Evaluation tokens that measuring took.
        compensate: Whether what the removed parts gave on average, ``W_out[:, removed] mean(x_removed)``, is added to
            the output of every module that keeps some (FLAP's bias compensation). What goes whole leaves nothing: on
            SmolLM2 its mean output does harm, and a block without both modules can leave the checkpoint.
        uneven: Whether shares are for the form ``deci``: attentions go whole or stay.
    """

    NAME: ClassVar[str] = "parts"
    """Of the payload that carries them."""

    scores: Mapping[str, Tensor]
    means: Mapping[str, Tensor]
    tokens: int = 0
    compensate: bool = True
    uneven: bool = False

    @torch.no_grad()
    def keep(self, decoder: Decoder, units: Mapping[str, float]) -> KeptParts:
        """Say which parts stay.

        Args:
            decoder: The dense model.
            units: Module name → share of its parts to remove, in [0, 1], rounded to whole parts.

        Raises:
            StrategyError: If a unit is not a ranked module, or a share is outside [0, 1].
        """
        parts = find_parts(decoder)
        kept: dict[str, tuple[int, ...]] = {}
        lost: dict[str, Tensor] = {}
        for name, share in units.items():
            if name not in self.scores or name not in parts or not 0.0 <= share <= 1.0:
                raise StrategyError(
                    f"units[{quoted(name)}] must be an attention or MLP with a share in [0, 1], got {share}"
                )
            part = parts[name]
            order = self.scores[name].argsort(stable=True)
            gone = order[: round(share * part.count)]
            if not len(gone):
                continue
            kept[name] = tuple(sorted(order[len(gone) :].tolist()))
            if self.compensate and len(gone) < part.count:
                lost[name] = spread(gone.tolist(), part.width)
        return KeptParts(kept, self._biases(decoder, parts, lost))

    def _biases(self, decoder: Decoder, parts: Mapping[str, Parts], lost: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What lost channels gave on average, on the host, which waits for the device once."""
        found: list[Tensor] = []
        for name, index in lost.items():
            W = decoder.model.get_submodule(parts[name].output).get_parameter("weight")
            bias = W[:, sent(index, W.device)].float() @ sent(self.means[name][index], W.device)
            found.append(bias.to(found[0].device) if found else bias)
        return dict(zip(lost, torch.stack(found).cpu(), strict=True)) if found else {}

    def to_payload(self) -> Payload:
        """As what a strategy's shares need beside them."""
        return Payload(self.NAME, self.to_tensors(), self.tokens)

    @classmethod
    def of(cls, payload: Payload) -> Self:
        """Read what ``to_payload`` gave.

        Raises:
            StrategyError: If it is another payload, or something is missing.
        """
        payload.check(cls.NAME)
        return replace(cls.from_tensors(payload.tensors), tokens=payload.tokens)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything but ``tokens``, for a safetensors file."""
        scores = {f"score.{name}": score.contiguous() for name, score in self.scores.items()}
        means = {f"mean.{name}": mean.contiguous() for name, mean in self.means.items()}
        said = {"compensate": torch.tensor(self.compensate)}
        return scores | means | said | ({"uneven": torch.tensor(True)} if self.uneven else {})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Read what ``to_tensors`` wrote.

        Raises:
            StrategyError: If something is missing.
        """
        found = {
            kind: {n.removeprefix(kind): t for n, t in tensors.items() if n.startswith(kind)}
            for kind in ("score.", "mean.")
        }
        if found["score."].keys() != found["mean."].keys() or "compensate" not in tensors:
            raise StrategyError("ranked parts must have scores and means of the same modules, and say compensate")
        return cls(
            found["score."],
            found["mean."],
            compensate=bool(tensors["compensate"]),
            uneven=bool(tensors.get("uneven", False)),
        )


def rank_parts(
    decoder: Decoder, windows: Tensor, ranking: Ranking, *, compensate: bool = True, batch_windows: int = 16
) -> RankedParts:
    """Measure the channels of every attention and MLP, and rank their parts.

    Args:
        decoder: The dense model; as it was afterwards.
        windows: ``m x L`` token ids.
        ranking: Scores channels; a part's score is the sum of its channels'.
        compensate: See :class:`RankedParts`.
        batch_windows: Windows that pass a block together.

    Raises:
        UnsupportedModelError: If the model's modules cannot be split into parts.
        EvaluationError: If states or scores are not finite.
    """
    statistics = moments = measure_channels(decoder, windows, batch_windows=batch_windows)
    tokens = windows.numel()
    if ranking.effects:
        statistics = Fitting(1)(lambda _: measure_effects(decoder, windows, moments))
        tokens *= 4
    scores = {}
    for name, part in find_parts(decoder).items():
        W = decoder.model.get_submodule(part.output).get_parameter("weight").detach().float().cpu()
        scores[name] = ranking.score(W, statistics[name]).view(part.count, part.width).sum(1).contiguous()
        check_finite(f"score of parts of {name}", scores[name], decoder.model.dtype)
    return RankedParts(scores, {name: known.mean for name, known in statistics.items()}, tokens, compensate)
