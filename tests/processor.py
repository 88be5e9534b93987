"""What the processor that runs the tests is good for."""

import torch

__all__ = ["SAME_BITS"]

SAME_BITS = torch.backends.cpu.get_cpu_capability() != "AVX2"
"""Whether a product ends in the same last bits in any company; seen not to on a processor with AVX2 alone."""
