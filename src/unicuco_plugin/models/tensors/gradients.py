"""Gradients through a model whose own parameters ask for none."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = ["gradients_inside"]


@contextmanager
def gradients_inside(model: PreTrainedModel) -> Iterator[None]:
    """Let gradients flow back to the embeddings of tokens, and let no parameter ask for one.

    The model is given token ids as ever: some families read them again after the embedding, or accept nothing else.

    Args:
        model: As it was afterwards, however it ends.
    """

    def ask(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # A copy: some families scale embeddings in place, which is forbidden to what itself asks for a gradient.
        return output.detach().requires_grad_(True).clone()

    with kept_tensors():
        asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hook = model.get_input_embeddings().register_forward_hook(ask)
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        hook.remove()
        for parameter in asking:
            parameter.requires_grad_(True)
