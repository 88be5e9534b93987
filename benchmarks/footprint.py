r"""What training takes: memory of the device and of the host, disk, and seconds, by arithmetic from the code.

    python benchmarks/footprint.py                                    # the table of docs/scale.md
    python benchmarks/footprint.py --check benchmarks/results/larger-than-memory*.json

Shapes alone are needed: models are built without weights from ``SHAPES``. A batch of candidates is measured on the
ranking windows of the default preset; what counts is what ``objectives/`` holds at one time:

    weights     all of them, or (``--offload cpu|disk``) the embedding, the last norm, the head and one block
    dense       states before every block and behind the last, once for the windows
    nodes       states of every candidate before and behind one block, and what is kept for later batches
    block       what one block makes of the windows that pass together: queries, keys, values, the MLP's products
    head        logits of half of ``positions``, in the model's dtype and, with two copies, in float32
    levels      where candidates are stitched: one block at every level (2 GB of all where a quarter of the free memory
                has no room for that), and its linears once more, realised

``--check`` compares that with the largest resident set of the first step of ``larger_than_memory.py``. Seconds of a
candidate are the multiplications of the blocks that it keeps and of the head, at ``--tflops``, and never less than
reading the blocks once a batch at ``--gigabytes-per-second``, where they are offloaded.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.levels.store import predict_bytes
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.sketch import sketch_model
from unicuco_plugin.models.tensors.storage import count_parameters
from unicuco_plugin.search.settings import Settings

FIELDS = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip
SHAPES = {
    "Llama-3-8B": (32, 4096, 14336, 32, 8, 128256),
    "Llama-2-13B": (40, 5120, 13824, 40, 40, 32000),
    "Llama-3-70B": (80, 8192, 28672, 64, 8, 128256),
}
SPACES = ("depth", "sparsity")
# What a process has in memory before a model: the interpreter, PyTorch, Transformers and the toolkit, measured here.
LIBRARIES = 0.55e9
# Nodes' states that an evaluator keeps between batches.
CACHE = 2**28
# Decoded levels that are kept in any case; those of one block may take more.
LEVELS = 2**31
POSITIONS = 512
REMOVED = 0.25


def llama(sizes: Sequence[int], **others: Any) -> LlamaConfig:
    """The configuration of an entry of ``SHAPES``."""
    return LlamaConfig(**dict(zip(FIELDS, sizes, strict=True)), **others)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, in weights, and of its states, in numbers a token."""

    blocks: int
    block: int
    rest: int
    hidden: int
    inside: int
    vocabulary: int
    linears: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, *sizes: int) -> "Shape":
        """Build the model without weights from an entry of ``SHAPES``, and count."""
        blocks, hidden, mlp, heads, groups, vocabulary = sizes
        decoder = find_decoder(sketch_model(llama(sizes)))
        block = count_parameters(decoder.blocks[0])
        rest = count_parameters(decoder.model) - blocks * block
        linears = {name: (own.out_features, own.in_features) for name, own in decoder.linears(0).items()}
        inside = 3 * hidden + 2 * hidden * groups // heads + 3 * mlp
        return cls(blocks, block, rest, hidden, inside, vocabulary, linears)


@dataclass(frozen=True)
class Footprint:
    """Bytes and seconds."""

    device: float
    host: float
    disk: float
    seconds: float


def footprint(
    shape: Shape,
    space: str,
    *,
    offload: str,
    tokens: int,
    length: int,
    candidates: int,
    batch_windows: int = 16,
    width: int = 2,
    tflops: float = 1.0,
    gigabytes_per_second: float = 1.0,
) -> Footprint:
    """Arithmetic of one batch of candidates; ``width`` is the bytes of a weight where it is computed with."""
    state = tokens * shape.hidden * width
    weights = (shape.rest + (shape.blocks if offload == "none" else 1) * shape.block) * width
    part = min(batch_windows * length, tokens)
    head = POSITIONS // 2 * shape.vocabulary * (width + 8)
    device = weights + (shape.blocks + 1) * state + 2 * candidates * state + CACHE + part * shape.inside * width + head
    levels = LevelSettings()
    disk = 0.0
    if space == "sparsity":
        device += max(LEVELS, len(levels.sparsities) * shape.block * width) + shape.block * width
        disk = shape.blocks * predict_bytes(shape.linears, levels.sparsities, width, levels.block_size)
    # What is removed is not computed: blocks, halves of them, or parts; zeros are.
    kept = 1.0 if space == "sparsity" else 1 - REMOVED
    work = 2 * tokens * (kept * shape.blocks * shape.block + 2 * shape.hidden * shape.vocabulary)
    seconds = work / (tflops * 1e12)
    if offload != "none":
        read = shape.blocks * shape.block * width / (gigabytes_per_second * 1e9)
        seconds = max(seconds, read / candidates)
    host = LIBRARIES + (shape.blocks * shape.block * width if offload == "cpu" else 0)
    return Footprint(device, host, disk, seconds)


def main() -> None:
    """Print the table, or compare it with what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=400.0, help="An H100's or H200's, bfloat16, in long products.")
    parser.add_argument("--gigabytes-per-second", type=float, default=25.0, help="From the host, or from disk.")
    parser.add_argument("--check", type=Path, nargs="+", help="Results of larger_than_memory.py.")
    args = parser.parse_args()
    for path in args.check or ():
        _check(path)
    if args.check:
        return
    settings = Settings()
    print(
        "| model | space | offload | device, GB | host, GB | disk, GB | seconds a candidate |",
        "|---|---|---|---|---|---|---|",
        sep="\n",
    )
    for name, sizes in SHAPES.items():
        shape = Shape.of(*sizes)
        for space in SPACES:
            for offload in ("none", "cpu", "disk"):
                found = footprint(
                    shape,
                    space,
                    offload=offload,
                    tokens=settings.rank_tokens,
                    length=settings.rank_seq_length,
                    candidates=settings.batch,
                    batch_windows=settings.batch_windows,
                    tflops=args.tflops,
                    gigabytes_per_second=args.gigabytes_per_second,
                )
                numbers = " | ".join(f"{value / 1e9:,.1f}" for value in (found.device, found.host, found.disk))
                print(f"| {name} | {space} | {offload} | {numbers} | {found.seconds:.3f} |")


def _check(path: Path) -> None:
    """On the CPU device and host are one."""
    result = json.loads(path.read_text(encoding="utf8"))
    sizes, step = result["shape"], result["measure"]
    heads = sizes["heads"]
    shape = Shape.of(sizes["blocks"], sizes["hidden"], sizes["mlp"], heads, heads, sizes["vocabulary"])
    width = getattr(torch, step["dtype"]).itemsize
    candidates, tokens = len(step["candidates"]), sizes["tokens"]
    given = {"offload": "disk", "tokens": tokens, "length": tokens, "candidates": candidates, "width": width}
    found = footprint(shape, "depth", **given)
    expected, measured = (found.device + found.host) / 1e9, step["peak_resident_gb"]
    held = (shape.rest + shape.blocks * shape.block) * width / 1e9
    print(
        f"{path.name}: at most {expected:.2f} GB expected, {measured:.2f} GB measured; its weights have {held:.1f} GB"
    )


if __name__ == "__main__":
    main()
