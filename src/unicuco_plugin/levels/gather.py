"""What reaches the linears of one block: their Hessians, and the states that go on to the next block."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from llmcompressor.modeling.moe.context import moe_calibration_context
from llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify import accumulate_hessian, make_empty_hessian
from torch import Tensor, nn

from unicuco_plugin.errors import CalibrationError, LevelsError
from unicuco_plugin.levels.stitch import swapped
from unicuco_plugin.models.blocks.mixtures import find_split
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.linears import FEW

__all__ = ["Hessians", "gather_hessians", "mean_states"]


@dataclass
class Hessians:
    """The Hessians of a block's linears; linears that are given one and the same tensor share one.

    Attributes:
        leaders: For every linear, the one whose Hessian it shares, often itself.
        sums: For every leader, its ``C x C`` float32 Hessian and the samples in it, as the toolkit counts them.
    """

    leaders: dict[str, str] = field(default_factory=dict)
    sums: dict[str, tuple[Tensor, int]] = field(default_factory=dict)


def gather_hessians(runner: BlockRunner, index: int, states: Tensor, batch_windows: int) -> tuple[Hessians, Tensor]:
    """Run a dense block over all states, with the toolkit's own sums over what enters its linears.

    Experts that were taken apart (:mod:`.experts`) are given all tokens, as in the toolkit's passes; what leaves the
    block comes from those that the router chose.

    Args:
        runner: Of the dense model.
        index: The block.
        states: ``m x L x hidden`` states that enter it.
        batch_windows: Windows that pass it together.

    Returns:
        The Hessians, of all linears but a ``FEW`` that no token reached, and the ``m x L x hidden`` states that leave
        the block.

    Raises:
        CalibrationError: If no token reached linears that weigh more (an expert that no token chose).
        EvaluationError: If states or a Hessian are not finite.
    """
    linears = runner.decoder.linears(index)
    found = Hessians()
    seen: dict[str, Tensor] = {}  # what entered the leaders in this pass; held, so that its memory is not used again
    block = runner.decoder.block_names[index]
    experts = tuple(f"{block}.{name}." for name in find_split(runner.decoder.blocks[index]))
    hooks = [
        linear.register_forward_pre_hook(
            partial(_accumulate, found, seen, name, apart=bool(experts) and name.startswith(experts))
        )
        for name, linear in linears.items()
    ]
    try:
        parts = []
        with moe_calibration_context():
            for part in states.split(batch_windows):
                parts.append(runner.run(index, part))
                seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    unreached = [name for name in linears if name not in found.leaders]
    weights = {name: linear.weight.numel() for name, linear in linears.items()}
    if sum(weights[name] for name in unreached) > FEW * sum(weights.values()):
        raise CalibrationError(
            f"no calibration token reached {unreached[0]} ({len(unreached)} linears in all); give more windows"
        )
    runner.check()
    for name, (H, _) in found.sums.items():
        check_finite(f"the Hessian of {name}", H, states.dtype)
    return found, torch.cat(parts)


def _accumulate(
    found: Hessians, seen: dict[str, Tensor], name: str, linear: nn.Linear, args: tuple[Tensor], *, apart: bool = False
) -> None:
    """Add to a leader's Hessian. A linear's first input decides whose Hessian it shares."""
    entering = args[0]
    if name not in found.leaders:
        same = (other for other, tensor in seen.items() if _is_same(tensor, entering))
        found.leaders[name] = next(same, name)
    leader = found.leaders[name]
    if leader != name:
        if leader not in seen or not _is_same(seen[leader], entering):
            raise LevelsError(f"{name} and {leader} had one input in one pass and two in another")
        return
    seen[name] = entering
    H, samples = found.sums.get(name) or (make_empty_hessian(linear), 0)
    # The toolkit's sum knows two and three dimensions; DeepSeek's attention has four.
    flat = entering.flatten(1, -2) if entering.dim() > 3 else entering
    if apart and flat.dim() == 2:
        # One sample, however many tokens: a last, smaller batch would weigh as much as the others.
        flat = flat[:, None]
    found.sums[name] = accumulate_hessian(flat, linear, H, samples)


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


@torch.no_grad()
def mean_states(
    runner: BlockRunner,
    index: int,
    states: Tensor,
    shares: Sequence[float],
    weights_of: Callable[[int], Mapping[str, Tensor]],
    *,
    batch_windows: int,
) -> Tensor:
    """Run a block at every level over the same states, and average what leaves it.

    Args:
        runner: Of the dense model, whose weights are back in place afterwards.
        index: The block.
        states: ``m x L x hidden`` states that enter it.
        shares: What each of E levels counts for: the share of weights that a sparsity keeps.
        weights_of: The weights of the block's linears at a level from 1 to E.
        batch_windows: Windows that pass it together.

    Returns:
        ``sum_e w_e X_e / sum_e w_e`` with the shares ``w_e``, in the states' dtype, summed in float32.

    Source:
        The idea is that of Týr-the-Pruner (G. Li et al., 2025); here on the levels of this database.
    """
    linears = runner.decoder.linears(index)
    total = torch.zeros(states.shape, dtype=torch.float32, device=states.device)
    for level, share in enumerate(shares, start=1):
        with swapped(linears, weights_of(level)):
            for out, part in zip(total.split(batch_windows), states.split(batch_windows), strict=True):
                out.add_(runner.run(index, part), alpha=share)
    return total.div_(sum(shares)).to(states.dtype)
