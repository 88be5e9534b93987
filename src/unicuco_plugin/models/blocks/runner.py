"""Runs a decoder's blocks one by one on states of our choosing, and its head on any final state."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.block_call import BlockCall, same_numbers
from unicuco_plugin.models.blocks.block_output import BlockOutput
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.masks import without_masks
from unicuco_plugin.models.tensors.finite import FiniteStates
from unicuco_plugin.models.tensors.forwards import replace_forward
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.models.tensors.storage import compute_device

__all__ = ["BlockRunner"]

# Batch shapes whose calls are kept: the usual one and what is left over at the end.
_SHAPES = 2
# Windows and tokens that the first look at a model takes.
_WINDOWS, _TOKENS = 2, 3
_INSTEAD = "so its blocks cannot be run one by one, as training does; a strategy written by hand can be applied"


class BlockRunner:
    """Calls each block as the model itself would at the batch at hand.

    What the model hands a block beside the states (masks, rotary tables, biases of positions, …) is taken from a
    forward pass of the model over a batch of the same shape, in which no block computes anything. A first look, with a
    few tokens, makes sure that this is right: that each block is given what the one before returned, and nothing that
    depends on the text or on another block. This knows no family and copies no weight.

    Args:
        decoder: The dense model; every call leaves it as it was.
        length: Tokens in a window.

    Raises:
        UnsupportedModelError: If the model's blocks cannot be run one by one.
        EvaluationError: If a block gives values that are not finite.
    """

    def __init__(self, decoder: Decoder, length: int) -> None:
        self.decoder, self.length = decoder, length
        self._outputs: list[BlockOutput] = []
        self._calls: OrderedDict[tuple[int, ...], list[BlockCall]] = OrderedDict()
        # A balance of experts cannot be told of blocks that were not run.
        routers = vars(decoder.config).get("output_router_logits", False)
        self._options = {"use_cache": False, **({"output_router_logits": False} if routers else {})}
        self._finite = FiniteStates(decoder.block_names)
        self._masks: Callable[[Any], AbstractContextManager[None]] = without_masks
        self._look()

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return compute_device(self.decoder.model)

    def here(self, states: Tensor) -> Tensor:
        """States on a device; those that wait on the host are sent to the model's."""
        return sent(states, self.device) if states.device.type == "cpu" else states

    @torch.inference_mode()
    def _look(self) -> None:
        """Run the whole model on a few tokens, and compare its calls with those on others without any block."""
        tokens = torch.arange(2 * _WINDOWS * min(self.length, _TOKENS), device=self.device)
        tokens %= self.decoder.model.get_input_embeddings().num_embeddings
        some, others = tokens.view(2, _WINDOWS, -1)
        calls: list[BlockCall] = []
        order: list[int] = []
        entered: list[Tensor] = []
        left: list[Tensor] = []
        names, label = self.decoder.block_names, type(self.decoder.model).__name__

        def before(index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states, call = BlockCall.split(args, kwargs)
            if left and not same_numbers(states, left[-1]):
                raise UnsupportedModelError(
                    f"{label}: what enters {names[index]} is not what leaves the block before it, {_INSTEAD}"
                )
            entered.append(states)
            calls.append(call)
            order.append(index)

        def after(index: int, _: nn.Module, __: tuple[Any, ...], output: object) -> None:
            self._outputs.append(BlockOutput.read(output, names[index]))
            left.append(self._outputs[-1].states(output))
            self._finite.add(index, left[-1])

        hooks = []
        for index, block in enumerate(self.decoder.blocks):
            hooks.append(block.register_forward_pre_hook(partial(before, index), with_kwargs=True))
            hooks.append(block.register_forward_hook(partial(after, index)))
        try:
            self.decoder.model.base_model(input_ids=some, **self._options)
        finally:
            for hook in hooks:
                hook.remove()
        self._finite.check()
        if order != list(range(len(names))):
            raise UnsupportedModelError(
                f"{label}: does not run its {len(names)} blocks once each in their order, {_INSTEAD}"
            )
        try:
            self.normed(left[-1])
        except (AttributeError, TypeError):  # a family that itself reads the mask it makes (MPT)
            self._masks = nullcontext
        self.embed(others)
        for index, there in enumerate(self._calls.popitem()[1]):
            name, here = names[index], calls[index]
            same = same_numbers((here.args, here.kwargs), (there.args, there.kwargs))
            if not same and not self._indifferent(index, there, here, entered[index], left[index]):
                raise UnsupportedModelError(
                    f"{label}: {name} is given more than states and positions, which depends on the text or on other "
                    f"blocks, {_INSTEAD}"
                )

    def _indifferent(self, index: int, call: BlockCall, given: BlockCall, states: Tensor, expected: Tensor) -> bool:
        """Whether a block that is called as on other tokens makes the same of its states: it reads nothing of them.

        That is asked of what blocks hand each other in a mapping (Gemma 4, whose later blocks may read an earlier one's
        keys), which is new and empty for every call; a tensor may matter on longer text alone (which tokens DeepSeek's
        sparse attention looks at).
        """
        plain = ({k: v for k, v in one.kwargs.items() if not isinstance(v, Mapping)} for one in (call, given))
        if not same_numbers(*plain):
            return False
        kwargs = {
            name: copy.copy(value) if isinstance(value, Mapping) else value for name, value in call.kwargs.items()
        }
        try:
            output = replace(call, kwargs=kwargs)(self.decoder.blocks[index], states)
        except Exception:  # whatever a family raises that misses what it reads
            return False
        return torch.equal(self._outputs[index].states(output), expected)

    @torch.no_grad()
    def embed(self, windows: Tensor) -> Tensor:
        """Return the states that enter the first block.

        Args:
            windows: ``b x length`` token ids.

        Returns:
            ``b x length x hidden`` states in the model's dtype.
        """
        states, self._calls[tuple(windows.shape)], _ = self.enter(windows)
        if len(self._calls) > _SHAPES:
            self._calls.popitem(last=False)
        return states

    def enter(self, tokens: Tensor, **options: Any) -> tuple[Tensor, list[BlockCall], Any]:  # noqa: ANN401 - the model's
        """The states that enter the first block, how each block is to be called, and what the model then gives.

        Args:
            tokens: ``b x p`` token ids.
            options: What the model is given beside them, such as a cache.
        """
        entering, calls = list[Tensor](), list[BlockCall]()

        def keep(states: Tensor, call: BlockCall) -> Tensor:
            entering.append(states)
            calls.append(call)
            return states

        with self._replaced(keep):
            output = self.decoder.model.base_model(input_ids=sent(tokens, self.device), **self._options | options)
        return entering[0], calls, output

    @torch.no_grad()
    def run(self, index: int, states: Tensor) -> Tensor:
        """Run block ``index`` on ``b x length x hidden`` states; returns states of the same shape.

        Raises:
            EvaluationError: If they, or states of an earlier call, are not finite. On an accelerator that is found out
                after some calls, or in :meth:`check`.
        """
        result = self.call(index, states)
        self._finite.add(index, result)
        return result

    def call(self, index: int, states: Tensor, call: BlockCall | None = None) -> Tensor:
        """As :meth:`run`, with gradients where the caller wants them, or as :meth:`enter` said; nobody looks at it."""
        states, shape = self.here(states), (states.shape[0], states.shape[1])
        if call is None:
            if shape not in self._calls:
                self.embed(torch.zeros(shape, dtype=torch.long))
            self._calls.move_to_end(shape)
            call = self._calls[shape][index]
        return self._outputs[index].states(call(self.decoder.blocks[index], states))

    def check(self) -> None:
        """Raise an :class:`EvaluationError` that names the block if what has left a block so far is not finite."""
        self._finite.check()

    def logits(self, states: Tensor) -> Tensor:
        """Return the model's own logits (final norm, head, scaling, capping) for states that leave the last block.

        Args:
            states: ``b x p x hidden`` states, at any positions.

        Returns:
            ``b x p x vocabulary`` logits in the model's dtype, with gradients where the caller wants them.
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
        states = self.here(states)
        positions = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
        with self._replaced(lambda _, __: states), self._masks(self.decoder.config):
            return model(input_ids=positions, **self._options)

    @contextmanager
    def _replaced(self, function: Callable[[Tensor, BlockCall], Tensor]) -> Iterator[None]:
        """Let ``function`` of states and the call's rest stand for every block, until the end of the ``with``."""

        def stand_in(output: BlockOutput) -> Callable[..., object]:
            return lambda _, *args, **kwargs: output.of(function(*BlockCall.split(args, kwargs)))

        undo = [
            replace_forward(block, stand_in(output))
            for block, output in zip(self.decoder.blocks, self._outputs, strict=True)
        ]
        try:
            yield
        finally:
            for put_back in undo:
                put_back()
