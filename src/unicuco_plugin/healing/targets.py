r"""The dense model's distributions as targets: its likeliest tokens at each position, computed once, kept on disk.

====== ====== ==========================================================
symbol shape  meaning
====== ====== ==========================================================
P      p x k  probabilities of the dense model's k likeliest tokens
Q      p x k  what the model that learns gives these tokens
r, s   p      what P and Q leave to all other tokens, ``1 - sum``
====== ====== ==========================================================

``sum P log(P / Q) + r log(r / s)`` is the KL of two distributions in which all other tokens are one: never more than
that of the whole, and it has no slope where the two agree.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from unicuco_plugin.errors import CalibrationError, EvaluationError
from unicuco_plugin.files.draft import remove_drafts, write_whole
from unicuco_plugin.files.received import read_bytes
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.models.tensors.storage import compute_device
from unicuco_plugin.payload import Payload

__all__ = ["Targets", "top_divergence"]

# Windows in a file, which is what a kill costs.
_FILE_WINDOWS = 16
# What is left to other tokens is a difference of two numbers close to one, in float32.
_LEAST = 1e-6


class Targets:
    """The ``k`` likeliest tokens of each position of fixed windows, and the logarithms of their probabilities.

    Args:
        folder: Where they are kept, named by the model and the windows; files that are damaged are made anew.
        windows: ``m x L`` token ids.
        top_k: How many tokens.
    """

    def __init__(self, folder: Path, windows: Tensor, top_k: int) -> None:
        self.windows = windows
        self._folder, self._k = folder, top_k
        self._read: tuple[int, tuple[Tensor, Tensor]] | None = None

    def prepare(self, dense: nn.Module, report: Callable[[int], None]) -> None:
        """Compute what is not there.

        Args:
            dense: The dense model, in evaluation mode.
            report: Told how many windows are done.

        Raises:
            CalibrationError: If the folder cannot be written.
            EvaluationError: If a logit is not finite, or memory has no room for one window.
        """
        fitting = Fitting(1)
        for index, windows in enumerate(self.windows.split(_FILE_WINDOWS)):
            report(index * _FILE_WINDOWS)
            if self._load(index) is None:
                found = [fitting(partial(self._compute, dense, window)) for window in windows]
                self._write(index, torch.stack([logs for logs, _ in found]), torch.stack([ids for _, ids in found]))
        report(len(self.windows))

    def __getitem__(self, window: int) -> tuple[Tensor, Tensor]:
        """Logarithms of probabilities, ``L x k`` in float32, and tokens, ``L x k``.

        Raises:
            EvaluationError: If the file was removed or damaged since :meth:`prepare`.
        """
        index = window // _FILE_WINDOWS
        if self._read is None or self._read[0] != index:
            found = self._load(index)
            if found is None:
                raise EvaluationError(
                    f"{self._path(index)}: was removed or damaged meanwhile; go on with the same command and --resume"
                )
            self._read = index, found
        logs, tokens = self._read[1]
        return logs[window % _FILE_WINDOWS].float(), tokens[window % _FILE_WINDOWS].long()

    @torch.inference_mode()
    def _compute(self, dense: nn.Module, window: Tensor, _: int = 1) -> tuple[Tensor, Tensor]:
        logits = dense(input_ids=sent(window, compute_device(dense))[None], use_cache=False).logits[0]
        found = logits.topk(min(self._k, logits.shape[-1]))
        logs = found.values.float() - logits.float().logsumexp(-1, keepdim=True)
        check_finite("logits of the dense model", logs, logits.dtype)
        return logs.half().cpu(), found.indices.int().cpu()

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:05}.safetensors"

    def _load(self, index: int) -> tuple[Tensor, Tensor] | None:
        path = self._path(index)
        try:
            tensors = load(read_bytes(path, largest=path.stat().st_size, follow=False))
            digest = bytes(tensors.pop("digest").tolist()).decode("ascii")
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None
        whole = tensors.keys() == {"logs", "tokens"} and Payload("targets", tensors).digest == digest
        count = min(_FILE_WINDOWS, len(self.windows) - index * _FILE_WINDOWS)
        if not whole or tensors["logs"].shape[:2] != (count, self.windows.shape[1]):
            return None
        return tensors["logs"], tensors["tokens"]

    def _write(self, index: int, logs: Tensor, tokens: Tensor) -> None:
        tensors = {"logs": logs, "tokens": tokens}
        digest = torch.tensor(list(Payload("targets", tensors).digest.encode("ascii")), dtype=torch.uint8)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_drafts(self._folder, self._path(index).name)
            write_whole(self._path(index), save(tensors | {"digest": digest}))
        except OSError as error:
            raise CalibrationError(
                f"{self._folder}: the dense model's logits cannot be kept: {error}; make room, or give another --work"
            ) from error


def top_divergence(logits: Tensor, logs: Tensor, tokens: Tensor) -> Tensor:
    """Mean divergence of logits from targets, nats per position.

    Args:
        logits: ``p x V``, in any floating-point dtype.
        logs: ``p x k``, the dense model's.
        tokens: ``p x k``, whose they are.
    """
    P, log_Q = logs.exp(), logits.float().gather(-1, tokens) - logits.float().logsumexp(-1, keepdim=True)
    r, s = ((1.0 - shares.sum(-1)).clamp_min(_LEAST) for shares in (P, log_Q.exp()))
    return ((P * (logs - log_Q)).sum(-1) + r * (r / s).log()).mean()
