r"""What a compact checkpoint saves in bytes and in time, against the dense one in the same run.

    python benchmarks/structured_speed.py --shares 0.125 0.25 0.375 0.5

For each share of prunable parameters (attentions and MLPs) parts are drawn at random: head groups, and neurons 32 at a
time, until the next would be too much; so blocks differ in size and a module may go whole. ``--parts`` takes a file
``structured.parts`` of an export instead. What is drawn says nothing of quality: that depends on which parts go, speed
does not. Each checkpoint is written and loaded again by ``unicuco_plugin.load``.

Prefill: one forward of ``--prompt`` tokens. Generation: ``--new`` tokens after 16, greedy, with the cache; the time of
those 16 is in it. Models take turns, ``--repeats`` times after one that is not counted; told are the tokens per second
of the fastest turn, by the clock on the wall, and the median of the ratios to the dense model within a turn, with
their range. On a CPU these ratios are of processor seconds, so that others on the machine do not count; give it one
thread then.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import ROOT, write_result

import unicuco_plugin
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.sublayers import sublayer_params
from unicuco_plugin.models.checkpoints.demo import find_smollm2
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.kept_parts_file import read_kept_parts
from unicuco_plugin.models.parts.parts import Parts, find_parts

_STEP = 32
# On the wall, and of the processor.
Seconds = tuple[float, float]


def main() -> None:
    """Prune, save, load, and let them take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.125, 0.25, 0.375, 0.5])
    parser.add_argument("--parts", type=Path, help="kept parts of one export, instead of shares")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "structured-speed.json")
    args = parser.parse_args()
    args.model = args.model or str(find_smollm2())
    with tempfile.TemporaryDirectory() as folder:
        models = {"dense": _saved(args, Path(folder) / "dense", None, 0.0)}
        for name, parts, share in _asked(args):
            models[name] = _saved(args, Path(folder) / name, parts, share)
        _take_turns(args, models)
    rows = {name: row for name, (_, row) in models.items()}
    for name, row in rows.items():
        print(name, row)
    settings = {"dtype": args.dtype, "device": _device(args.device), "prompt": args.prompt, "new": args.new}
    write_result(args.output, settings | {"repeats": args.repeats, "rows": rows})


def _asked(args: argparse.Namespace) -> list[tuple[str, KeptParts, float | None]]:
    if args.parts is not None:
        return [("given", read_kept_parts(args.parts), None)]
    decoder = find_decoder(load_model(args.model))
    found, total = find_parts(decoder), sum(sublayer_params(decoder).values())
    return [(f"{share:g}", _draw(found, share * total, args.seed), share) for share in args.shares]


def _draw(found: dict[str, Parts], params: float, seed: int) -> KeptParts:
    """Remove steps in random order while their parameters are at most ``params``."""
    chance = torch.Generator().manual_seed(seed)
    steps = []
    for name, part in found.items():
        width = 1 if part.kind == "attention" else _STEP
        order = torch.randperm(part.count, generator=chance)
        steps += [(name, chunk.tolist(), part.params * len(chunk)) for chunk in order.split(width)]
    kept = {name: set(range(part.count)) for name, part in found.items()}
    for index in torch.randperm(len(steps), generator=chance).tolist():
        name, gone, size = steps[index]
        if size > params:
            break
        params -= size
        kept[name] -= set(gone)
    return KeptParts({n: tuple(sorted(left)) for n, left in kept.items() if len(left) < found[n].count})


def _saved(
    args: argparse.Namespace, folder: Path, parts: KeptParts | None, share: float | None
) -> tuple[Any, dict[str, Any]]:
    model = load_model(args.model, dtype=args.dtype)
    prunable, dense = sum(sublayer_params(find_decoder(model)).values()), model.num_parameters()
    if parts is not None:
        apply_parts(model, parts)
    model.save_pretrained(folder)
    loaded = unicuco_plugin.load(folder, device=args.device)
    row = {
        "class": type(loaded).__name__,
        "share_asked": share,
        "share_saved": (dense - loaded.num_parameters()) / prunable,
        "params": loaded.num_parameters(),
        "bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
    }
    return loaded, row


@torch.inference_mode()
def _take_turns(args: argparse.Namespace, models: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    ids = torch.randint(100, 1000, (1, args.prompt), generator=torch.Generator().manual_seed(args.seed))
    ids = ids.to(args.device)
    prefill: dict[str, list[Seconds]] = {name: [] for name in models}
    generation: dict[str, list[Seconds]] = {name: [] for name in models}
    for turn in range(args.repeats + 1):
        for name, (model, _) in models.items():
            times = (_prefill(model, ids), _generate(model, ids[:, :16], args.new))
            if turn:  # the first warms up
                prefill[name].append(times[0])
                generation[name].append(times[1])
    for name, (_, row) in models.items():
        for kind, seconds, tokens in (("prefill", prefill, args.prompt), ("generation", generation, args.new)):
            clock = 1 if args.device == "cpu" else 0
            ratios = [dense[clock] / ours[clock] for ours, dense in zip(seconds[name], seconds["dense"], strict=True)]
            row[f"{kind}_tokens_per_second"] = tokens / min(wall for wall, _ in seconds[name])
            row[f"{kind}_ratio"] = statistics.median(ratios)
            row[f"{kind}_ratio_range"] = (min(ratios), max(ratios))


def _prefill(model: Any, ids: torch.Tensor) -> Seconds:
    began = _now(ids.device)
    model(ids, use_cache=True, logits_to_keep=1)
    return _since(began, ids.device)


def _generate(model: Any, ids: torch.Tensor, count: int) -> Seconds:
    began = _now(ids.device)
    options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    made = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert made.shape[1] == ids.shape[1] + count
    return _since(began, ids.device)


def _now(device: torch.device) -> Seconds:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def _since(began: Seconds, device: torch.device) -> Seconds:
    wall, processor = _now(device)
    return wall - began[0], processor - began[1]


def _device(name: str) -> str:
    return torch.cuda.get_device_name(name) if name.startswith("cuda") else name


if __name__ == "__main__":
    main()
