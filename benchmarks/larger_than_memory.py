r"""A model larger than memory: fingerprint, candidates, one answer pruned and exported, and the most memory it took.

    python benchmarks/larger_than_memory.py --folder /scratch --output benchmarks/results/larger-than-memory.json

A random checkpoint is written in Llama-2-13B's shapes (26 GB in bfloat16; ``--blocks``, ``--hidden``, ``--mlp``,
``--heads`` and ``--vocabulary`` make another), one file a block, and is removed at the end with what is exported from
it. Then, each in a process of its own whose largest resident set the operating system tells (``ru_maxrss``, pages of
mapped files among them):

``measure``
    The model is loaded by ``--offload``, hashed twice (what is in files that have not changed is remembered), and
    candidates that lack a quarter of the blocks in a row are measured on ``--tokens`` tokens, in ``--dtype``.
``prune``
    ``unicuco prune`` carries out the best of them and exports it in the checkpoint's own dtype, judged by Transformers
    as ever: loaded, compared bit for bit, run, and let write.

Random weights cost what real ones cost; their divergences mean nothing.
"""

# ruff: noqa: PLC0415 - the process that starts the others imports nothing large
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PRUNED, DENSE, STRATEGY = "pruned", "dense", "strategy.json"


def main() -> None:
    """Write the model, measure, prune, and write down what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="Room for twice the model; the usual temporary folder by default.")
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=5120)
    parser.add_argument("--mlp", type=int, default=13824)
    parser.add_argument("--heads", type=int, default=40)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--offload", default="auto")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--step", choices=["make", "measure", "result"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step == "make":
        _make(args)
    elif args.step == "measure":
        _measure(args)
    elif args.step == "result":
        _result(args)
    else:
        # This process imports nothing large: a child's largest set begins with its parent's.
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            args.folder = Path(folder)
            _run(args)


def _run(args: argparse.Namespace) -> None:
    own = [sys.executable, __file__, *sys.argv[1:], "--folder", str(args.folder), "--step"]
    steps = {
        "make": [*own, "make"],
        "measure": [*own, "measure"],
        "prune": [
            *(
                sys.executable,
                "-c",
                "from unicuco_plugin.cli.main import main; main()",
                "prune",
                "--model",
                str(args.folder / DENSE),
            ),
            *("--strategy", str(args.folder / STRATEGY), "--output", str(args.folder / PRUNED)),
            *("--offload", args.offload, "--json"),
        ],
    }
    took = {}
    for name, command in steps.items():
        started = time.perf_counter()
        with (args.folder / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(command, stdout=out)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{name} failed with {process.returncode}")
        took[name] = {
            "peak_resident_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
            "seconds": round(time.perf_counter() - started, 1),
            "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        }
        print(name, took[name], flush=True)
    (args.folder / "took.json").write_text(json.dumps(took), encoding="utf8")
    subprocess.run([*own, "result"], check=True)


def _make(args: argparse.Namespace) -> None:
    """The checkpoint, one file a block, never more than one block in memory."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    folder = args.folder / DENSE
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    hidden, mlp = args.hidden, args.mlp

    def noise(*shape: int) -> torch.Tensor:
        # Uniform, of deviation 0.02: several times as fast as normal.
        return torch.empty(shape).uniform_(-0.0346, 0.0346, generator=generator).to(torch.bfloat16)

    halves = {
        **{f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"},
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }
    files: dict[str, str] = {}
    for index in range(args.blocks + 1):
        if index < args.blocks:
            prefix = f"model.layers.{index}."
            tensors = {f"{prefix}{name}.weight": noise(*shape) for name, shape in halves.items()}
            norms = [f"{prefix}input_layernorm.weight", f"{prefix}post_attention_layernorm.weight"]
        else:
            tensors = {name: noise(args.vocabulary, hidden) for name in ("model.embed_tokens.weight", "lm_head.weight")}
            norms = ["model.norm.weight"]
        tensors |= {name: torch.ones(hidden, dtype=torch.bfloat16) for name in norms}
        file = f"model-{index + 1:05}-of-{args.blocks + 1:05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(tensors, file)
    size = sum(path.stat().st_size for path in folder.iterdir())
    index_file = {"metadata": {"total_size": size}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file), encoding="utf8")
    LlamaConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=args.blocks,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        vocab_size=args.vocabulary,
        max_position_embeddings=4096,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    ).save_pretrained(folder)


def _measure(args: argparse.Namespace) -> None:
    import torch

    from unicuco_plugin.costs.measure import block_costs
    from unicuco_plugin.models.blocks.decoder import find_decoder
    from unicuco_plugin.models.blocks.fingerprint import fingerprint
    from unicuco_plugin.models.loading import load_model
    from unicuco_plugin.objectives.evaluator import BlockEvaluator

    seconds: dict[str, float] = {}
    mark = time.perf_counter()

    def note(name: str) -> None:
        nonlocal mark
        seconds[name] = round(time.perf_counter() - mark, 1)
        mark = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(f"  {name}: {seconds[name]} s, peak {peak:.2f} GB", file=sys.stderr, flush=True)

    said: list[str] = []
    model = load_model(args.folder / DENSE, dtype=args.dtype, offload=args.offload, tell=said.append)
    note("load and check")
    found = str(fingerprint(model))
    note("fingerprint")
    if str(fingerprint(model)) != found:
        sys.exit("the fingerprint that is remembered is another")
    note("fingerprint again")
    decoder = find_decoder(model)
    count, gone = args.blocks, args.blocks // 4
    generator = torch.Generator().manual_seed(1)
    windows = torch.randint(args.vocabulary, (1, args.tokens), generator=generator)
    evaluator = BlockEvaluator(decoder, windows)
    note("look")
    starts = range(count - gone - args.candidates, count - gone)
    candidates = [list(range(start, start + gone)) for start in starts]
    values = evaluator.evaluate(candidates)
    note("measure")
    best = min(range(len(values)), key=lambda index: values[index].value)
    gone_blocks = {decoder.block_names[index]: 1.0 for index in candidates[best]}
    costs, value = block_costs(decoder).in_dtype(torch.bfloat16), values[best].value
    row = costs.row(gone_blocks)
    strategy = {
        "schema": 1,
        "space": "depth",
        "model": {"name": DENSE, "fingerprint": found},
        "request": {"sparsity": 0.25},
        "sparsity": gone / count,
        "params": int(costs.of("params", row)),
        "bytes": int(costs.of("bytes", row)),
        "source": "archive",
        "divergence": {"mean": value, "interval90": [value, value], "measured": True},
        "units": gone_blocks,
    }
    (args.folder / STRATEGY).write_text(json.dumps(strategy), encoding="utf8")
    print(
        json.dumps(
            {
                "decision": said[0],
                "fingerprint": found,
                "dtype": args.dtype,
                "seconds": seconds,
                "candidates": [
                    {"drops": drops, "kl": value.value} for drops, value in zip(candidates, values, strict=True)
                ],
            }
        )
    )


def _result(args: argparse.Namespace) -> None:
    from common import write_result

    took: dict[str, Any] = json.loads((args.folder / "took.json").read_text(encoding="utf8"))
    took["measure"] |= json.loads((args.folder / "measure.out").read_text(encoding="utf8"))
    took["prune"]["export"] = json.loads((args.folder / "prune.out").read_text(encoding="utf8"))
    took["prune"]["export"].pop("path")
    files = {name: sorted((args.folder / name).glob("*.safetensors")) for name in (DENSE, PRUNED)}
    sizes = {name: sum(path.stat().st_size for path in paths) for name, paths in files.items()}
    shape = {name: getattr(args, name) for name in ("blocks", "hidden", "mlp", "heads", "vocabulary", "tokens")}
    arguments = [text for name, value in shape.items() for text in (f"--{name}", str(value))]
    write_result(args.output, {"shape": shape, "bytes": sizes, **took}, [*arguments, "--offload", args.offload])


if __name__ == "__main__":
    main()
