"""Runs a decoder's blocks one by one on states of our choosing, and its head on any final state."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unicuco_plugin.models.decoder import Decoder

__all__ = ["BlockRunner"]


class BlockRunner:
    """Calls each block with the arguments that the model itself would pass it.

    The arguments (masks, rotary tables, …) are recorded once, in a plain forward of one window: they depend on the
    window's length and on the block, not on the states, so they serve any batch of full windows of that length. This
    knows no family and copies no weight.

    Args:
        decoder: The dense model; every call leaves it as it was.
        length: Tokens in a window.
    """

    def __init__(self, decoder: Decoder, length: int) -> None:
        self.decoder = decoder
        self.length = length
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._returns_tuple = False
        self._record()

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        device: torch.device = self.decoder.model.device
        return device

    @torch.inference_mode()
    def _record(self) -> None:
        def keep_call(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
            self._calls.append((args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}))
            self._returns_tuple = isinstance(output, tuple)

        hooks = [block.register_forward_hook(keep_call, with_kwargs=True) for block in self.decoder.blocks]
        try:
            window = torch.zeros((1, self.length), dtype=torch.long, device=self.device)
            self.decoder.model.base_model(input_ids=window, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()

    @torch.inference_mode()
    def embed(self, windows: Tensor) -> Tensor:
        """Return the states that enter the first block.

        Args:
            windows: ``b x length`` token ids.

        Returns:
            ``b x length x hidden`` states in the model's dtype.
        """
        entering: list[Tensor] = []

        def keep(states: Tensor) -> Tensor:
            entering.append(states)
            return states

        with self._replaced(keep):
            self.decoder.model.base_model(input_ids=windows.to(self.device), use_cache=False)
        return entering[0]

    @torch.inference_mode()
    def run(self, index: int, states: Tensor) -> Tensor:
        """Run block ``index`` on ``b x length x hidden`` states; returns states of the same shape."""
        args, kwargs = self._calls[index]
        output = self.decoder.blocks[index](states, *args, **kwargs)
        result: Tensor = output[0] if self._returns_tuple else output
        return result

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """Return the model's own logits (final norm, head, scaling, capping) for states that leave the last block.

        Args:
            states: ``b x p x hidden`` states, at any positions.

        Returns:
            ``b x p x vocabulary`` logits in the model's dtype.
        """
        logits: Tensor = self._finish(self.decoder.model, states).logits
        return logits

    @torch.inference_mode()
    def normed(self, states: Tensor) -> Tensor:
        """Return what the head is given, behind the final norm, for states that leave the last block.

        Args:
            states: ``b x p x hidden`` states, at any positions.

        Returns:
            ``b x p x hidden`` states in the model's dtype.
        """
        final: Tensor = self._finish(self.decoder.model.base_model, states).last_hidden_state
        return final

    def _finish(self, model: Any, states: Tensor) -> Any:  # noqa: ANN401 - Transformers is untyped
        """What a model gives once ``states`` have left its last block."""
        positions = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
        with self._replaced(lambda _: states):
            return model(input_ids=positions, use_cache=False)

    @contextmanager
    def _replaced(self, first: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Let ``first`` stand for block 0 and the identity for all others, until the end of the block."""

        def stand_in(function: Callable[[Tensor], Tensor]) -> Callable[..., object]:
            def forward(hidden_states: Tensor, *args: object, **kwargs: object) -> object:
                states = function(hidden_states)
                return (states,) if self._returns_tuple else states

            return forward

        saved = [(block, block.__dict__.get("forward")) for block in self.decoder.blocks]
        try:
            for index, block in enumerate(self.decoder.blocks):
                block.__dict__["forward"] = stand_in(first if index == 0 else lambda states: states)
            yield
        finally:
            for block, forward in saved:
                if forward is None:
                    del block.__dict__["forward"]
                else:
                    block.__dict__["forward"] = forward
