"""Where a model has mixtures of experts: fused as their family keeps them, or each expert as linears of its own."""

from torch import Tensor, nn

from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = [
    "EXPERT_LINEARS",
    "EXPERT_OUTPUT",
    "SOURCE_CLASS",
    "find_fused",
    "find_routers",
    "find_split",
    "find_stacks",
    "is_quantised",
    "list_experts",
]

# Where llm-compressor notes which class it has taken apart.
SOURCE_CLASS = "_source_experts_cls"
# What Transformers calls the tensors of all experts, and llm-compressor the linears of one that each is made of.
EXPERT_OUTPUT = "down_proj"
EXPERT_LINEARS = {"gate_up_proj": ("gate_proj", "up_proj"), "up_proj": ("up_proj",), EXPERT_OUTPUT: (EXPERT_OUTPUT,)}


def find_fused(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold all experts of a block in tensors of three dimensions, and say how, by full name."""
    return {name: module for name, module in model.named_modules() if _is_fused(module)}


def find_split(model: nn.Module) -> dict[str, nn.Module]:
    """The modules whose experts were taken apart into linears, by full name."""
    return {name: module for name, module in model.named_modules() if SOURCE_CLASS in vars(module)}


def find_stacks(model: nn.Module) -> tuple[str, ...]:
    """Full names of tensors of three dimensions that hold experts in a way that nothing takes apart."""
    with kept_tensors():
        return tuple(
            f"{name}.{field}"
            for name, module in model.named_modules()
            if not _is_fused(module)
            for field, parameter in module.named_parameters(recurse=False)
            if _is_stack(module, parameter)
        )


def find_routers(block: nn.Module, hidden_size: int) -> set[nn.Linear]:
    """The linears that choose or weigh experts: routers, and gates of shared experts.

    They stand beside the experts and lead to no more than a number for each; a shared expert stands there too, and
    leads back to the states.

    Args:
        block: A decoder block.
        hidden_size: Of the states.
    """
    found: set[nn.Linear] = set()
    for parent in block.modules():
        children = dict(parent.named_children())
        experts = next((name for name, child in children.items() if _count_experts(name, child)), None)
        if experts is None:
            continue
        most = _count_experts(experts, children.pop(experts)) + 1  # one more: Zaya may skip all of them
        for child in children.values():
            linears = [module for module in child.modules() if isinstance(module, nn.Linear)]
            leads_back = len(linears) > 1 and any(linear.out_features == hidden_size for linear in linears)
            if not leads_back and any(linear.out_features <= most for linear in linears):
                found.update(linears)
    return found


def is_quantised(split: nn.Module) -> bool:
    """Whether a linear among experts was quantised."""
    return any(hasattr(module, "quantization_scheme") for module in split.modules())


def list_experts(split: nn.Module) -> list[nn.Module]:
    """The experts of a module that was taken apart, in their order."""
    return [child for name, child in split.named_children() if name.isdigit()]


def _is_fused(module: nn.Module) -> bool:
    with kept_tensors():
        own = dict(module.named_parameters(recurse=False))
    first = own.get("gate_up_proj", own.get("up_proj"))
    # Transformers' decorator of such classes sets the attribute.
    declared = hasattr(module, "is_transposed")
    return declared and first is not None and EXPERT_OUTPUT in own and _is_stack(module, first)


def _is_stack(module: nn.Module, parameter: Tensor) -> bool:
    """Whether a parameter is a matrix for each of several experts; a convolution's is none, nor are vectors."""
    convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return parameter.dim() == 3 and min(parameter.shape) > 1 and not convolution


def _count_experts(name: str, module: nn.Module) -> int:
    """How many experts a child of a mixture holds, 0 where it holds none."""
    if SOURCE_CLASS in vars(module):
        return len(list_experts(module))
    with kept_tensors():
        stacks = [parameter for parameter in module.parameters(recurse=False) if _is_stack(module, parameter)]
    if stacks:
        return stacks[0].shape[0]
    return len(module) if isinstance(module, nn.ModuleList) and "expert" in name else 0
