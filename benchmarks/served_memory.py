"""The memory that a profile counts beside vLLM's own numbers: weights in its parameters, cache in its pages.

    python benchmarks/served_memory.py --engine none --model M --output FILE NAME=DIR...
    /path/to/vllm/env/bin/python benchmarks/served_memory.py --engine vllm --output FILE NAME=DIR...

Run both, in this order. A DIR is a checkpoint whose ``strategy.json`` says what was removed or stored, or the dense
model's folder. The first run also writes a random model with sliding windows, which no profile is for, and counts it
from its configuration. vLLM then loads each and is asked what it has in memory: the bytes of all its parameters and
buffers, each storage once, and what one sequence takes of its pool of pages. Working buffers are not compared: on a CPU
vLLM reserves none. See export_vllm.py for vLLM's environment.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from export_vllm import describe_run, engine_environment

CONTEXT, BATCH = 8192, 8
WINDOWS = "random-gemma3"
DECI = "configuration_deci.py"  # beside a checkpoint of uneven blocks
PAGE = 32  # tokens; 16 on GPUs, 128 on CPUs unless told otherwise, where multiples of 32 alone run


def main() -> None:
    """Count, or ask vLLM and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--engine", choices=("none", "vllm"), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="The dense model, with --engine none.")
    parser.add_argument("--scratch", type=Path, default=Path(), help="Where the random model is written.")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(dtype="bfloat16")
    arguments = parser.parse_args()
    folders = {name: Path(folder) for name, _, folder in (one.partition("=") for one in arguments.checkpoints)}
    folders[WINDOWS] = arguments.scratch / WINDOWS
    results: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    if arguments.engine == "none":
        write_windows(folders[WINDOWS])
        results = {"context": CONTEXT, "batch": BATCH}
        results["counted"] = {name: count(folder, arguments.model) for name, folder in folders.items()}
    else:
        os.environ |= engine_environment(arguments.threads)
        results.setdefault("vllm", {})
        for name, folder in folders.items():
            if name not in results["vllm"]:
                results["vllm"][name] = ask_vllm(folder, name)
                arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf8")
        described = describe_run(arguments)
        results |= {key: described[key] for key in ("command", "threads", "machine", "versions")}
        results["off"] = {
            name: {what: round(counted[what] / results["vllm"][name][what] - 1.0, 5) for what in ("weights", "cache")}
            for name, counted in results["counted"].items()
        }
        print(json.dumps(results["off"]))
    arguments.output.write_text(
        json.dumps(results | {"date": time.strftime("%Y-%m-%d")}, indent=1) + "\n", encoding="utf8"
    )


def count(folder: Path, dense: Path) -> dict[str, int]:
    """What the tables say of a checkpoint, made from the dense model's configuration as training makes them."""
    import torch  # noqa: PLC0415 - vLLM's environment has not all of these

    from unicuco_plugin.costs.measure import measure_costs, part_costs, with_serving  # noqa: PLC0415
    from unicuco_plugin.costs.memory import ServedCosts  # noqa: PLC0415
    from unicuco_plugin.models.blocks.decoder import find_decoder  # noqa: PLC0415
    from unicuco_plugin.models.loading import load_config  # noqa: PLC0415
    from unicuco_plugin.models.sketch import sketch_model  # noqa: PLC0415
    from unicuco_plugin.quantities import Load  # noqa: PLC0415
    from unicuco_plugin.strategy import Strategy  # noqa: PLC0415

    told = folder / "strategy.json"
    decoder = find_decoder(sketch_model(load_config(folder if folder.name == WINDOWS else dense)))
    strategy = Strategy.read(told) if told.exists() else None
    stored = strategy is not None and strategy.traits.stores
    if (folder / DECI).exists():
        costs = part_costs(decoder, compensate=False, uneven=True)
    else:
        costs = measure_costs(decoder, "depth" if strategy is None or stored else strategy.space)
    costs = with_serving(costs, decoder).in_dtype(torch.bfloat16)
    shares = {} if strategy is None else strategy.shares
    served, x = ServedCosts.under(costs, Load(CONTEXT, BATCH)), costs.row(shares)
    weights = strategy.bytes if strategy is not None and stored else int(costs.of("bytes", x))
    return {"weights": weights, "cache": int(served.cache(x)), "buffers": served.buffers}


def write_windows(folder: Path) -> None:
    """A random model of five layers with a window to each without."""
    import torch  # noqa: PLC0415 - only where it is written
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig  # noqa: PLC0415

    kinds = ["full_attention" if index % 6 == 5 else "sliding_attention" for index in range(12)]
    config = Gemma3TextConfig(
        vocab_size=2048, hidden_size=256, intermediate_size=512, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, sliding_window=512, layer_types=kinds, max_position_embeddings=CONTEXT,
    )  # fmt: skip
    torch.manual_seed(0)
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def ask_vllm(folder: Path, name: str) -> dict[str, int]:
    """Load a checkpoint and look at what vLLM holds."""
    from vllm import LLM  # noqa: PLC0415 - an environment of its own
    from vllm.model_executor.model_loader import base_loader  # noqa: PLC0415
    from vllm.v1.core.kv_cache_utils import get_max_concurrency_for_kv_cache_config  # noqa: PLC0415

    loaded, finish = [], base_loader.process_weights_after_loading

    def look(model: Any, *rest: Any) -> Any:
        # Afterwards linears are in the form of a CPU's kernels, which no parameter shows.
        loaded.append(storages([*model.parameters(), *model.buffers()]))
        return finish(model, *rest)

    base_loader.process_weights_after_loading = look
    try:
        engine = LLM(
            model=str(folder),
            dtype="float16" if "w4" in name else "bfloat16",  # vLLM's kernel of four bits on a CPU
            max_model_len=CONTEXT,
            max_num_seqs=BATCH,
            max_num_batched_tokens=2048,
            block_size=PAGE,
            enforce_eager=True,
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
            trust_remote_code=(folder / DECI).exists(),
        )
    finally:
        base_loader.process_weights_after_loading = finish
    runner = engine.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    config = engine.llm_engine.vllm_config
    concurrency = get_max_concurrency_for_kv_cache_config(config, runner.kv_cache_config)
    return {"weights": loaded[0], "cache": round(BATCH * storages(runner.kv_caches) / concurrency)}


def storages(tensors: list[Any]) -> int:
    """Bytes of tensors, memory that several share counted once."""
    found = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in found}.values())


if __name__ == "__main__":
    main()
