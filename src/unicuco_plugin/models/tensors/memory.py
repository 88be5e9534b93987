"""Whether an error says that memory is full, of a device or of the host."""

import torch

__all__ = ["lacks_memory"]

# How allocators other than that of PyTorch say it: cuBLAS', and the host's.
_SAYINGS = ("CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


def lacks_memory(error: BaseException) -> bool:
    """Whether what was tried may go well with less in memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in str(error) for said in _SAYINGS)
