"""Steps of the optimiser, and what of them is on disk: a kill costs what came after the last look at the divergence."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from unicuco_plugin.errors import EvaluationError, JournalError
from unicuco_plugin.files.draft import remove_drafts, write_whole
from unicuco_plugin.files.received import parse_json, read_bytes
from unicuco_plugin.healing.settings import HealingSettings
from unicuco_plugin.healing.targets import Targets, top_divergence
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.models.tensors.storage import compute_device
from unicuco_plugin.payload import Payload

__all__ = ["Learning", "Look"]

# Share of the steps in which the learning rate rises, and the norm that gradients are cut to: usual choices.
_WARMING, _NORM = 0.05, 1.0


@dataclass(frozen=True)
class Look:
    """The divergence on the windows that choose, at one time.

    Attributes:
        step: Steps done.
        tokens: Tokens trained on.
        divergence: Nats per token, of the likeliest tokens (:mod:`.targets`).
    """

    step: int
    tokens: int
    divergence: float


@dataclass
class Learning:
    """A model's adapters on their way; call :meth:`run`.

    Attributes:
        model: With adapters.
        weights: Theirs, by name.
        targets: The dense model's, the windows that choose first.
        settings: How to learn.
        path: The file that keeps the state.
        key: What the state belongs to: models, windows and settings.
        looks: At the divergence, the first before any step.
        best: The adapters at the look with the least divergence.
    """

    model: nn.Module
    weights: dict[str, Tensor]
    targets: Targets
    settings: HealingSettings
    path: Path
    key: str
    looks: list[Look] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._optimiser = torch.optim.AdamW(self.weights.values(), lr=self.settings.learning_rate, weight_decay=0.0)
        device = compute_device(self.model)
        # A core is busy with one window; others make long work of a short one.
        self._fitting = Fitting(1 if device.type == "cpu" else self.settings.batch)

    def run(self, report: Callable[[int, Look | None], None]) -> Look:
        """Take all steps that are left, and put the best adapters into the model.

        Args:
            report: Told how many windows are done, and each look.

        Returns:
            The best look; its step is 0 where none was better than nothing.

        Raises:
            EvaluationError: If a divergence is not finite, or memory has no room for one window.
            JournalError: If the state cannot be written.
        """
        steps = self.settings.steps
        pauses = {round(steps * part / self.settings.evaluations) for part in range(1, self.settings.evaluations + 1)}
        if not self.looks:
            self._look(0, report)
        for step in range(self.looks[-1].step, steps):
            self._step(step)
            report(min((step + 1) * self.settings.batch, self.settings.windows), None)
            if step + 1 in pauses:
                self._look(step + 1, report)
                self._write()
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.best[name])
        return min(self.looks, key=lambda look: look.divergence)

    def resume(self) -> None:
        """Go on from the file, if there is one.

        Raises:
            JournalError: If it is damaged, or belongs to other arguments.
        """
        if not self.path.exists():
            return
        try:
            tensors = load(read_bytes(self.path, largest=self.path.stat().st_size, follow=False))
            record = parse_json(bytes(tensors.pop("record").tolist()))
            whole = record["digest"] == Payload("state", tensors).digest
            looks = [Look(**look) for look in record["looks"]]
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise JournalError(f"state {self.path} cannot be read: {error}; remove it to begin anew") from error
        if record["key"] != self.key:
            raise JournalError(
                f"state {self.path} belongs to other models, text or settings: resume with the same arguments, or "
                "remove it to begin anew"
            )
        if not whole or not looks:
            raise JournalError(f"state {self.path} was edited or damaged: remove it to begin anew")
        self.looks = looks
        moments: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for place, (name, weight) in enumerate(self.weights.items()):
                weight.copy_(tensors[f"now.{name}"])
                self.best[name] = tensors[f"best.{name}"].to(weight.device)
                if f"step.{name}" in tensors:  # not where no gradient has come yet
                    moments[place] = {kind: tensors[f"{kind}.{name}"] for kind in ("step", "exp_avg", "exp_avg_sq")}
        self._optimiser.load_state_dict(self._optimiser.state_dict() | {"state": moments})

    def _step(self, step: int) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * _schedule(step, self.settings.steps)
        first = step * self.settings.batch
        count = min(self.settings.batch, self.settings.windows - first)
        places = [self.settings.choosing + first + index for index in range(count)]
        self._fitting(partial(self._backward, places), count)
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), _NORM)
        if not bool(norm.isfinite()):
            raise EvaluationError(
                f"the gradient of step {step + 1} is not finite: take a smaller --learning-rate, or --dtype float32"
            )
        self._optimiser.step()

    def _backward(self, places: list[int], size: int) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        for start in range(0, len(places), size):
            part = places[start : start + size]
            (self._divergence(part) * (len(part) / len(places))).backward()

    def _divergence(self, places: list[int]) -> Tensor:
        device = compute_device(self.model)
        logs, tokens = (
            sent(torch.stack(found), device) for found in zip(*(self.targets[place] for place in places), strict=True)
        )
        ids = sent(self.targets.windows[places], device)
        return top_divergence(self.model(input_ids=ids, use_cache=False).logits, logs, tokens)

    @torch.no_grad()
    def _look(self, step: int, report: Callable[[int, Look | None], None]) -> None:
        found = [self._fitting(partial(self._measure, place), 1) for place in range(self.settings.choosing)]
        tokens = min(step * self.settings.batch, self.settings.windows) * self.targets.windows.shape[1]
        look = Look(step, tokens, math.fsum(found) / len(found))
        if not math.isfinite(look.divergence):
            raise EvaluationError(
                f"the divergence after step {step} must be finite, got {look.divergence}: take a smaller "
                "--learning-rate, or --dtype float32"
            )
        if not self.looks or look.divergence < min(seen.divergence for seen in self.looks):
            self.best = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.looks.append(look)
        report(min(step * self.settings.batch, self.settings.windows), look)

    def _measure(self, place: int, _: int) -> float:
        return float(self._divergence([place]))

    def _write(self) -> None:
        tensors: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            kept = {"now": weight.detach(), "best": self.best[name], **self._optimiser.state[weight]}
            tensors |= {f"{kind}.{name}": tensor.cpu().contiguous() for kind, tensor in kept.items()}
        record: dict[str, Any] = {"key": self.key, "looks": [vars(look) for look in self.looks]}
        record["digest"] = Payload("state", tensors).digest
        tensors["record"] = torch.tensor(list(json.dumps(record).encode()), dtype=torch.uint8)
        try:
            remove_drafts(self.path.parent, self.path.name)
            write_whole(self.path, save(tensors))
        except OSError as error:
            raise JournalError(
                f"state {self.path} cannot be written: {error}; make room and continue with --resume"
            ) from error


def _schedule(step: int, steps: int) -> float:
    """The part of the largest learning rate that a step has: rising, then half a cosine down to almost nothing."""
    rising = max(1, round(_WARMING * steps))
    return min((step + 1) / rising, 0.5 * (1.0 + math.cos(math.pi * step / steps)))
