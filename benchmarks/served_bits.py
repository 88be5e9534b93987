"""Greedy text of quantised checkpoints in vLLM beside Transformers.

    unicuco strategy PROFILE --bits 4 --json > some.json              # any strategy that names every unit
    python benchmarks/served_bits.py --engine none --output DIR some.json
    unicuco prune --model M --strategy DIR/NAME.json --levels LEVELS --output NAME          # for each file in DIR
    python benchmarks/served_bits.py --engine transformers --output FILE NAME=DIR...
    /path/to/vllm/env/bin/python benchmarks/served_bits.py --engine vllm --output FILE NAME=DIR...

Run both, in this order; the second compares. Transformers decodes the weights and computes in float32. vLLM loads each
checkpoint by its own configuration code and weight loaders, and computes in float16, since its CPU kernel of 4-bit
weights knows no float32. For other widths vLLM has no kernel on a CPU: a stand-in decodes them there, in float32, so
that all but the kernel is vLLM's; the results say which linears had it. Where inputs are rounded to 8 bits, vLLM's step
is their largest size over 127, compressed-tensors' over 127.5: Transformers is run with both, and with vLLM's in
float64 as well, which shows how soon greedy text parts where the last digits of a sum turn roundings over. See
export_vllm.py for vLLM's environment.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from export_vllm import CONTINUED, PROMPTS, describe_run, engine_environment, with_transformers, with_vllm


def main() -> None:
    """Continue the prompts from every checkpoint in one engine, and compare with the other where it was run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--engine", choices=("none", "transformers", "vllm"), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(dtype="as said for each")
    arguments = parser.parse_args()
    if arguments.engine == "none":
        write_strategies(Path(arguments.checkpoints[0]), arguments.output)
        return
    os.environ |= engine_environment(arguments.threads)
    results: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    found = {}
    for checkpoint in arguments.checkpoints:
        name, _, folder = checkpoint.partition("=")
        found[name] = in_transformers(Path(folder)) if arguments.engine == "transformers" else in_vllm(Path(folder))
        print(name, json.dumps(found[name] | {"continuations": len(PROMPTS)}))
    described = describe_run(arguments)
    results[arguments.engine] = {"checkpoints": found} | {
        key: described[key] for key in ("command", "threads", "machine", "versions")
    }
    if {"transformers", "vllm"} <= results.keys():
        results["agreement"] = compare(*(results[key]["checkpoints"] for key in ("transformers", "vllm")))
        print(json.dumps(results["agreement"]))
    results |= {"prompts": PROMPTS, "tokens": CONTINUED, "date": time.strftime("%Y-%m-%d")}
    arguments.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf8")


def write_strategies(like: Path, folder: Path) -> None:
    """Give units other schemes, in turn."""
    strategy = json.loads(like.read_text())
    # A block has four units: by adding the block's number, each kind of unit gets each scheme.
    turns: dict[str, Callable[[int, str], str]] = {
        "w4a16-and-16-bit": lambda i, unit: ("16", "W4A16:g64")[(i + i // 4) % 2],
        "w4a16-and-w8a8": lambda i, unit: "W4A16:g64" if "mlp" in unit else "W8A8",
        "w3-w4-w6-w8": lambda i, unit: f"W{(3, 4, 6, 8)[(i * 5 + i // 4) % 4]}A16:g64",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, scheme in turns.items():
        units = {unit: scheme(i, unit) for i, unit in enumerate(strategy["units"])}
        units = {unit: value for unit, value in units.items() if value != "16"}
        (folder / f"{name}.json").write_text(json.dumps(strategy | {"units": units}), encoding="utf8")


def in_transformers(folder: Path) -> dict[str, Any]:
    """What Transformers writes, in float32; and with inputs rounded as vLLM rounds them."""
    generate, tokenizer, _ = with_transformers(folder, "float32")
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    found = {"dtype": "float32", "continuations": [generate(prompt, CONTINUED) for prompt in prompts]}
    found["text"] = [tokenizer.decode(tokens) for tokens in found["continuations"]]
    if any(group.get("input_activations") for group in groups_of(folder)):
        exact, _, _ = with_transformers(folder, "float64")
        with servers_steps():
            found["continuations_rounded_as_served"] = [generate(prompt, CONTINUED) for prompt in prompts]
            found["continuations_rounded_as_served_float64"] = [exact(prompt, CONTINUED) for prompt in prompts]
    return found


def groups_of(folder: Path) -> list[dict[str, Any]]:
    """What the checkpoint says of its linears' schemes."""
    return list(json.loads((folder / "config.json").read_text())["quantization_config"]["config_groups"].values())


@contextmanager
def servers_steps() -> Iterator[None]:
    """Round inputs in steps of their largest size over 127."""
    from compressed_tensors.quantization.lifecycle import forward  # noqa: PLC0415 - one engine at a time

    compute = forward.compute_dynamic_scales_and_zp

    def shorter(*values: Any, **options: Any) -> Any:
        scale, zero_point = compute(*values, **options)
        return scale * (127.5 / 127.0), zero_point

    forward.compute_dynamic_scales_and_zp = shorter
    try:
        yield
    finally:
        forward.compute_dynamic_scales_and_zp = compute


def in_vllm(folder: Path) -> dict[str, Any]:
    """What vLLM writes, and which linears got the stand-in."""
    widths = {group["weights"]["num_bits"] for group in groups_of(folder) if not group.get("input_activations")}
    served: Counter[str] = Counter()
    dtype = "float32" if widths - {4} else "float16"
    with stand_in(served) if widths - {4} else nullcontext():
        generate, tokenizer, _ = with_vllm(folder, dtype)
    return {
        "dtype": dtype,
        "continuations": [generate(tokenizer(prompt).input_ids, CONTINUED) for prompt in PROMPTS],
        "stand_in": dict(sorted(served.items())),
    }


@contextmanager
def stand_in(served: Counter[str]) -> Iterator[None]:
    """Give vLLM a kernel for weights of any width, which decodes what vLLM's loaders have put into parameters."""
    import torch  # noqa: PLC0415 - one engine at a time
    from vllm.model_executor.kernels.linear import MPLinearKernel  # noqa: PLC0415
    from vllm.model_executor.layers.quantization.compressed_tensors.schemes import (  # noqa: PLC0415
        compressed_tensors_wNa16 as scheme,
    )

    class Decoding(MPLinearKernel):  # type: ignore[misc, unused-ignore]
        @classmethod
        def get_min_capability(cls) -> int:
            return -1

        @classmethod
        def can_implement(cls, c: Any) -> tuple[bool, str | None]:
            return not c.zero_points, "symmetric weights only"

        def process_weights_after_loading(self, layer: Any) -> None:
            packed, scales, _ = self._get_weight_params(layer)
            inputs, outputs = self.config.partition_weight_shape
            bits = self.config.weight_type.size_bits
            served[f"W{bits} {outputs}x{inputs}"] += 1
            # A row is a stream of codes, lowest bit first, in little-endian words.
            stream = packed.data.contiguous().view(torch.uint8)[..., None] >> torch.arange(8, dtype=torch.uint8) & 1
            places = stream.flatten(1)[:, : inputs * bits].view(outputs, inputs, bits)
            codes = (places.int() << torch.arange(bits, dtype=torch.int32)).sum(2) - 2 ** (bits - 1)
            weight = codes.view(outputs, scales.shape[1], -1) * scales.data[..., None].float()
            layer.decoded = weight.view(outputs, inputs).to(self.config.act_type)

        def apply_weights(self, layer: Any, x: Any, bias: Any = None) -> Any:
            return torch.nn.functional.linear(x, layer.decoded, bias)

    choose = scheme.choose_mp_linear_kernel
    scheme.choose_mp_linear_kernel = lambda config: Decoding
    try:
        yield
    finally:
        scheme.choose_mp_linear_kernel = choose


def compare(transformers: dict[str, Any], vllm: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Tokens until vLLM first differs from Transformers, and the latter's float64 from its float32."""
    found = {}
    for name in transformers.keys() & vllm.keys():
        own = {key: tokens for key, tokens in transformers[name].items() if key.startswith("continuations")}
        found[name] = {key: equal(tokens, vllm[name]["continuations"]) for key, tokens in own.items()}
        for key in [key for key in own if f"{key}_float64" in own]:
            found[name]["transformers_float32_float64"] = equal(own[key], own[f"{key}_float64"])
    return found


def equal(some: list[list[int]], others: list[list[int]]) -> list[int]:
    """Tokens until texts first differ."""
    return [next((i for i in range(CONTINUED) if a[i] != b[i]), CONTINUED) for a, b in zip(some, others, strict=True)]


if __name__ == "__main__":
    main()
