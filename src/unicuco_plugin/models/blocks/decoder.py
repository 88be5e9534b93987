"""A decoder-only language model seen as a row of blocks."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from unicuco_plugin.errors import StrategyError, UnsupportedModelError
from unicuco_plugin.models.blocks.mixtures import find_routers
from unicuco_plugin.models.blocks.support import check_config, check_model
from unicuco_plugin.models.families.family import HALVES, Family, Kind
from unicuco_plugin.models.families.known import family_of

__all__ = ["Decoder", "find_decoder"]


@dataclass(frozen=True)
class Decoder:
    """A view of a decoder-only causal language model; it owns nothing and copies nothing.

    Attributes:
        model: The whole model, head included.
        config: The live text configuration: ``model.config`` itself, or the text part inside it.
        blocks: The decoder blocks, in the order they run.
        blocks_name: Where they are, for instance ``"model.layers"`` or ``"gpt_neox.layers"``.
    """

    model: PreTrainedModel
    config: PreTrainedConfig
    blocks: nn.ModuleList
    blocks_name: str

    @property
    def family(self) -> Family:
        """What the model's family calls its parts."""
        return family_of(self.config)

    @property
    def block_names(self) -> tuple[str, ...]:
        """Full module name of every block, such as ``"model.layers.0"``."""
        return tuple(f"{self.blocks_name}.{index}" for index in range(len(self.blocks)))

    def check_indices(self, indices: Iterable[int]) -> tuple[int, ...]:
        """Sort block indices, given once each and leaving at least one block.

        Raises:
            StrategyError: If an index is not an integer in [0, blocks), occurs twice, or none would be left.
        """
        chosen = list(indices)
        count = len(self.blocks)
        for index in chosen:
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
                raise StrategyError(f"block index must be an integer in [0, {count}), got {index!r}")
        twice = sorted({index for index in chosen if chosen.count(index) > 1})
        if twice:
            raise StrategyError(f"block indices must be distinct, got {twice} more than once")
        if len(chosen) == count:
            raise StrategyError(f"at least one block must stay, got all {count} to remove")
        return tuple(sorted(chosen))

    def sublayers(self, index: int) -> dict[Kind, str]:
        """Map ``"attention"`` and ``"mlp"`` to their full module names in one block.

        Whatever mixes tokens counts as attention: linear attention, a convolution, a state space. A half that is not
        one module of its own is absent: OPT's MLP is two linears of the block itself, Falcon-H1 has an attention and a
        state space beside each other.

        Args:
            index: The block, in [0, blocks).
        """
        return {half: names[0] for half, names in self.halves(index).items() if len(names) == 1}

    def halves(self, index: int) -> dict[Kind, list[str]]:
        """Map ``"attention"`` and ``"mlp"`` to the full names of all such modules in one block."""
        children, block = dict(self.blocks[index].named_children()), self.block_names[index]
        return {
            half: [f"{block}.{name}" for name in self.family.half(half).names if name in children] for half in HALVES
        }

    def linears(self, index: int) -> dict[str, nn.Linear]:
        """Every linear layer of one block by its full module name, in the order of ``named_modules``.

        Experts that a family fuses into one tensor are not linears and not listed; routers and gates of experts are
        left alone (:func:`.mixtures.find_routers`).

        Args:
            index: The block, in [0, blocks).
        """
        prefix = f"{self.blocks_name}.{index}"
        modules = self.blocks[index].named_modules(prefix=prefix)
        routers = find_routers(self.blocks[index], getattr(self.config, "hidden_size", 0))
        return {name: module for name, module in modules if isinstance(module, nn.Linear) and module not in routers}

    def all_linears(self) -> dict[str, nn.Linear]:
        """The linear layers of all blocks by full module name, in the model's order.

        Raises:
            UnsupportedModelError: If there is none, as in GPT-2, whose weights are in ``Conv1D``.
        """
        found = {name: linear for index in range(len(self.blocks)) for name, linear in self.linears(index).items()}
        if not found:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: its blocks have no nn.Linear{self._instead()}, so no share of their "
                "weights can be zeroed or quantised; drop whole blocks instead (the space depth)"
            )
        return found

    def _instead(self) -> str:
        kinds = {type(module).__name__ for module in self.blocks.modules()}
        return " but Conv1D" if "Conv1D" in kinds else ""


def find_decoder(model: PreTrainedModel) -> Decoder:
    """Find the blocks of a causal language model, or say why it cannot be pruned correctly.

    The blocks are the one outermost ``ModuleList`` with as many entries as the configuration has layers.

    Raises:
        UnsupportedModelError: For encoder-decoders, multimodal wrappers, quantised models, families whose blocks
            share state or parameters, and models whose blocks cannot be found.
    """
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(f"expected a Transformers model, got {type(model).__name__}")
    check_config(model.config)
    config = model.config.get_text_config(decoder=True)
    name, blocks = _find_blocks(model, config.num_hidden_layers)
    check_model(model, name, len(blocks))
    return Decoder(model=model, config=config, blocks=blocks, blocks_name=name)


def _find_blocks(model: PreTrainedModel, count: int) -> tuple[str, nn.ModuleList]:
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    outermost = [
        (name, module) for name, module in lists if not any(name.startswith(f"{other}.") for other, _ in lists)
    ]
    if len(outermost) != 1:
        found = ", ".join(name for name, _ in outermost) or "none"
        raise UnsupportedModelError(
            f"{type(model).__name__}: expected one list of num_hidden_layers = {count} blocks, found {found}; take a "
            "model of another family"
        )
    return outermost[0]
