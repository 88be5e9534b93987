"""The linears that modules have at one moment, to put back; no weight is copied. And new ones in their image."""

from torch import nn

from unicuco_plugin.models.tensors.storage import kept_device, kept_tensors

__all__ = ["FEW", "Linears", "linear_like"]

# Share of a block's weights that no token need reach: Mamba never calls its dt_proj (two per cent of a block), while an
# expert that no token chose is more, and says that there are too few windows.
FEW = 0.05


class Linears:
    """Remembers the linears of modules, and the whole numbers that the modules say of themselves."""

    def __init__(self) -> None:
        self._before: list[tuple[nn.Module, dict[str, nn.Module], dict[str, int]]] = []

    def remember(self, module: nn.Module) -> None:
        """Note a module's linears before they are replaced by others; weights changed in place stay changed."""
        children: dict[str, nn.Module] = {
            name: child for name, child in module.named_children() if isinstance(child, nn.Linear)
        }
        numbers = {name: value for name, value in vars(module).items() if type(value) is int}
        self._before.append((module, children, numbers))

    def restore(self) -> None:
        """Put everything back; calling it again does nothing."""
        while self._before:
            module, children, numbers = self._before.pop()
            vars(module).update(numbers)
            for name, child in children.items():
                setattr(module, name, child)


def linear_like(old: nn.Module, *, bias: bool) -> nn.Linear:
    """Make a linear of the shape, dtype and flags of another, for its place; weights are whatever memory held.

    Args:
        old: A linear, wherever it is kept.
        bias: Whether the new one has a bias.
    """
    with kept_tensors():
        weight = old.get_parameter("weight")
    rows, columns = weight.shape
    made = nn.utils.skip_init(nn.Linear, columns, rows, bias=bias, device=kept_device(old), dtype=weight.dtype)
    return made.requires_grad_(weight.requires_grad).train(old.training)
