r"""Is all of it right on an accelerator, and how fast: in stages that end within ten minutes, without a network.

    python benchmarks/gpu_check.py --output benchmarks/results/gpu-check.json
    python benchmarks/gpu_check.py --dry-run --output dry.json           # the script itself: tiny shapes, on the CPU

Every stage prints one line of JSON when it is done, and is skipped where fewer seconds are left of ``--limit`` than it
is known to need. What is compared: the CPU with the device, on a random model of SmolLM2's width.

``machine``
    Rates of products of square matrices and of copies from pinned memory; what follows is measured against them.
``evaluation``
    Divergences of the first strategies of three spaces, in two dtypes: alone as in a batch, and again, to the bit; as
    on the CPU within ``GAPS``. The fingerprint is the CPU's.
``levels``
    Databases of sparsities and of schemes: how many zeros and codes differ; divergences and slopes on one of them.
``training``
    Small trainings in five spaces: what they answer, and whether a run that resumes measures nothing and ends alike.
``oneshot``
    Strategies of four spaces carried out with the model on the CPU, on the device, and waiting in memory and in files:
    the same checkpoint.
``blocks_8b``
    Llama-3-8B, random weights: seconds a candidate, tokens a second, the share of the rate of products (operations
    counted by PyTorch), of the time in which kernels run (its profiler), peak memory.
``levels_8b``
    A level database of one of its blocks, candidates and slopes on it.
``streamed_70b``
    Two blocks of Llama-3-70B that wait on the device, in memory and in files.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from common import ROOT, write_result
from footprint import SHAPES, llama
from safetensors.torch import load_file
from scale import measure_levels
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM, PreTrainedModel

from unicuco_plugin.costs.model import removed_share
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.objectives.objective import Objective, ObjectiveRequest
from unicuco_plugin.objectives.sensitivity import measure_slopes, uniform_plan
from unicuco_plugin.payload import Payload
from unicuco_plugin.peers.strategies import make_strategy
from unicuco_plugin.plugins.manager import make_objective
from unicuco_plugin.request import Request
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.training import ModelSource, UnitOptions, train_profile
from unicuco_plugin.training.subject import Subject
from unicuco_plugin.training.subjects.find import find_subject

sys.path.append(str(ROOT / "tests"))
from tiny import WORDS, tiny_tokenizer  # type: ignore[import-not-found]

# Blocks, hidden, MLP, heads, of keys and values, vocabulary; SmolLM2's width, few blocks: the CPU has to keep up.
SMALL = (4, 576, 1536, 9, 3, 4096)
TINY = (3, 64, 96, 4, 2, 128)
# Largest relative difference of a divergence that kernels' order of sums explains: ten times that of two CPUs' kernels.
GAPS = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
CUTTING, STEPPED = ("depth", "sublayer", "structured"), {"sparsity": "sparsities", "precision": "schemes"}
SCHEMES = ("W4A16", "W3A16", "W8A16")
# A search that does little but measure.
SHORT: dict[str, Any] = {
    "initial": 12, "epochs": 1, "picks": 4, "steps": 5, "imitation": 5, "pool": 32, "starts": 1, "rerank": 1,
    "verify": 0, "target": "log",
}  # fmt: skip

Found = dict[str, Any]


@dataclass
class Check:
    """What all stages share.

    Attributes:
        device: That is checked.
        dry: Whether all shapes are tiny.
        folder: For what is written and not kept.
        rate: Multiplications and additions a second in bfloat16, as measured.
    """

    device: torch.device
    dry: bool
    folder: Path
    rate: float = 1e12
    databases: dict[str, dict[str, Levels | SchemeLevels]] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, torch.device]:
        """The CPU, and what is checked."""
        return {"cpu": torch.device("cpu"), "device": self.device}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the model that both run."""
        return TINY if self.dry else SMALL

    @cached_property
    def dense(self) -> Path:
        """Its checkpoint in float32."""
        folder = self.folder / "dense"
        self.random(self.shape, device="cpu", dtype=torch.float32, spread=0.06).save_pretrained(folder)
        tiny_tokenizer(folder)
        return folder

    def load(self, place: str, dtype: torch.dtype = torch.float32) -> Decoder:
        """The model that both run, at one of the places."""
        return find_decoder(load_model(self.dense, device=self.places[place], dtype=dtype))

    def random(
        self, shape: Sequence[int], *, device: Any, dtype: torch.dtype = torch.bfloat16, spread: float = 0.02
    ) -> PreTrainedModel:
        """A Llama of random weights, made where it shall be."""
        config = llama(shape, max_position_embeddings=4096, initializer_range=spread, dtype=dtype)
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                return LlamaForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(before)

    def windows(self, count: int, length: int, vocabulary: int | None = None) -> Tensor:
        """Random token ids, shorter where all is tiny."""
        most = min(vocabulary or self.shape[-1], len(WORDS))
        shape = (count, length // 16 if self.dry else length)
        return torch.randint(4, most, shape, generator=torch.Generator().manual_seed(1))

    def timed(self, call: Callable[..., Any], *given: Any, **named: Any) -> tuple[float, Any]:
        """Call, and return seconds until the device is done, and what came of it; peak memory counts from here."""
        if self.cuda:
            gc.collect()
            torch.cuda.reset_peak_memory_stats()
        self.wait()
        started = time.perf_counter()
        found = call(*given, **named)
        self.wait()
        return time.perf_counter() - started, found

    @property
    def cuda(self) -> bool:
        """Whether there is something to wait for."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the device is done."""
        if self.cuda:
            torch.cuda.synchronize()

    def peak(self) -> float | None:
        """Most gigabytes since the last :meth:`timed` began; None where nobody counts."""
        return round(torch.cuda.max_memory_allocated() / 1e9, 2) if self.cuda else None


def repeated(a: Tensor, b: Tensor) -> None:
    """Ten products."""
    for _ in range(10):
        a @ b


def machine(check: Check, found: Found) -> None:
    """Rates to measure against."""
    found["threads"] = torch.get_num_threads()
    for dtype, most in ((torch.bfloat16, 8192), (torch.float32, 8192), (torch.float64, 4096)):
        size = most // 32 if check.dry else most
        a, b = (torch.randn(size, size, device=check.device, dtype=dtype) for _ in range(2))
        check.timed(torch.matmul, a, b)
        seconds, _ = check.timed(repeated, a, b)
        found[f"tflops_{dtype}".replace("torch.", "")] = round(2e-11 * size**3 / seconds, 3)
        if dtype == torch.bfloat16:
            check.rate = 20.0 * size**3 / seconds
    host = torch.zeros(2**20 if check.dry else 2**30, dtype=torch.uint8, pin_memory=check.cuda)
    check.timed(host.to, check.device)
    seconds, _ = check.timed(host.to, check.device, copy=True)
    found["pinned_gb_a_second"] = round(host.nbytes / seconds / 1e9, 1)


def gap(found: Sequence[float], wanted: Sequence[float]) -> float:
    """The largest relative difference; of what is near nothing, the difference over a thousandth of a nat."""
    return max(abs(one - other) / max(abs(other), 1e-3) for one, other in zip(found, wanted, strict=True))


def subject_of(check: Check, space: str, decoder: Decoder) -> Subject:
    """A space over the model, on the CPU's database where it needs one."""
    if space not in STEPPED:  # nobody asks which model it is, and hashing a large one takes long
        return find_subject(space, decoder, "", UnitOptions())
    levels = check.databases["cpu"][STEPPED[space]].folder
    return find_subject(space, decoder, str(fingerprint(decoder.model)), UnitOptions(levels=levels))


def measured(
    check: Check, space: str, decoder: Decoder, payload: Payload | None, windows: Tensor
) -> tuple[Objective, Tensor, Payload | None]:
    """An objective, the first strategies of its space, and what they need."""
    subject = subject_of(check, space, decoder)
    if subject.prepare is not None and payload is None:
        payload = subject.prepare(windows)
    objective = make_objective(
        "divergence", ObjectiveRequest(decoder, subject.space, windows, levels=subject.levels, payload=payload)
    )
    return objective, subject.space.first(12, torch.Generator().manual_seed(0), 0.75), payload


def compare(check: Check, space: str, dtype: torch.dtype, found: Found) -> None:
    """One space on both places, on the CPU's strategies and payload."""
    windows = check.windows(2, 128)
    objective, rows, payload = measured(check, space, check.load("cpu", dtype), None, windows)
    here = [entry.value for entry in objective.evaluate(rows)]
    objective, _, _ = measured(check, space, check.load("device", dtype), payload, windows)
    there, again = ([entry.value for entry in objective.evaluate(rows)] for _ in range(2))
    alone = [objective.evaluate(row[None])[0].value for row in rows]
    name = f"{space}_{dtype}".replace("torch.", "")
    found[f"{name}_gap"] = gap(there, here)
    assert there == again, f"{name}: another value when measured again"
    assert there == alone, f"{name}: another value alone than in a batch"
    assert found[f"{name}_gap"] < GAPS[dtype], f"{name}: {found[f'{name}_gap']:.2g} from the CPU's"


def evaluation(check: Check, found: Found) -> None:
    """Divergences, and the fingerprint."""
    prints = {str(fingerprint(check.load(place).model)) for place in check.places}
    assert len(prints) == 1, "the fingerprint is another there"
    for dtype in GAPS:
        for space in CUTTING:
            compare(check, space, dtype, found)


def levels(check: Check, found: Found) -> None:
    """Databases of both kinds from both places, and what is measured on one of them."""
    windows = check.windows(8, 256)
    kinds = {"sparsities": LevelSettings(sparsities=(0.3, 0.5, 0.7)), "schemes": LevelSettings(schemes=SCHEMES)}
    for place in check.places:
        check.databases[place] = {}
        decoder = check.load(place)
        for kind, settings in kinds.items():
            folder = check.folder / f"{kind}-{place}"
            seconds, made = check.timed(build_levels, decoder, windows, folder, name="random", settings=settings)
            check.databases[place][kind] = made
            found[f"{kind}_seconds_{place}"] = round(seconds, 2)
    one, other = (check.databases[place]["sparsities"] for place in check.places)
    assert isinstance(one, Levels)
    assert isinstance(other, Levels)
    zeros = [
        ((one.linear(name).decode(level) == 0) != (other.linear(name).decode(level) == 0)).float().mean().item()
        for name in one.sizes
        for level in (1, 2, 3)
    ]
    found["zeros_that_differ"] = max(zeros)
    one, other = (check.databases[place]["schemes"] for place in check.places)
    assert isinstance(one, SchemeLevels)
    assert isinstance(other, SchemeLevels)
    codes = [
        (one.decode(name, scheme.name) != other.decode(name, scheme.name)).float().mean().item()
        for name in one.shapes
        for scheme in one.offered(name)
    ]
    found["codes_that_differ"] = max(codes)
    for space in STEPPED:
        compare(check, space, torch.float32, found)
    base = check.databases["cpu"]["sparsities"]
    assert isinstance(base, Levels)
    slopes = [
        measure_slopes(BlockRunner(check.load(p), windows.shape[1]), base, windows[:2], uniform_plan(base, 2))
        for p in check.places
    ]
    sums = [sum(slope.values()) for slope in slopes]
    found["slopes_gap"] = gap(sums[1:], sums[:1])
    # Rounding decides a few zeros and codes, and each of those moves what is solved behind it.
    assert found["zeros_that_differ"] < 5e-3, f"{found['zeros_that_differ']:.2g} of the zeros are others"
    assert found["codes_that_differ"] < 5e-2, f"{found['codes_that_differ']:.2g} of the codes are others"
    assert found["slopes_gap"] < 1e-2, f"slopes are {found['slopes_gap']:.2g} from the CPU's"


def training(check: Check, found: Found) -> None:
    """Small trainings on both places; the device's resumes."""
    words = torch.randint(len(WORDS), (40_000,), generator=torch.Generator().manual_seed(3))
    text = check.folder / "text.txt"
    text.write_text(" ".join(WORDS[index] for index in words.tolist()), encoding="utf8")
    length = 16 if check.dry else 128
    sizes = {"tokens": 4 * length, "seq_length": length, "rank_tokens": 2 * length, "rank_seq_length": length}
    settings = Settings(**SHORT, **sizes)
    for space in (*CUTTING, *(STEPPED if check.databases else ())):
        answers = {}
        for place, device in check.places.items():
            options = UnitOptions(levels=check.databases["cpu"][STEPPED[space]].folder if space in STEPPED else None)
            given: dict[str, Any] = {"space": space, "units": options, "calibration": [str(text)], "settings": settings}
            source, output = ModelSource(check.dense, device=str(device)), check.folder / f"profile-{space}-{place}"
            seconds, trained = check.timed(train_profile, source, output, **given)
            answers[place] = trained.answer(**({"bits": 4.0} if space == "precision" else {"sparsity": 0.4}))
            found[f"{space}_seconds_{place}"] = round(seconds, 1)
        again = train_profile(source, output, **given, resume=True)
        spent = ("evaluations", "evaluation_tokens", "evaluation_seconds")
        assert [again.provenance[name] for name in spent] == [trained.provenance[name] for name in spent]
        assert again.front() == trained.front(), f"{space}: a resumed run ends in another profile"
        means = [answer.divergence.mean if answer.divergence else 0.0 for answer in answers.values()]
        found[f"{space}_answer_gap"] = gap(means[1:], means[:1])
        found[f"{space}_same_answer"] = answers["cpu"].units == answers["device"].units


def oneshot(check: Check, found: Found) -> None:
    """The same checkpoint wherever the model is."""
    from llmcompressor.modifiers.pruning import SparseGPTModifier  # noqa: PLC0415 - slow, and only here

    decoder = check.load("cpu")
    reference = ModelReference(name="random", fingerprint=str(fingerprint(decoder.model)))
    name, windows = decoder.block_names[1], check.windows(2, 128)
    kinds: dict[str, tuple[dict[str, float], list[Any]]] = {
        "depth": ({name: 1.0}, []),
        "sublayer": ({f"{name}.mlp": 1.0}, []),
        "structured": ({f"{name}.mlp": 0.5, f"{name}.self_attn": 0.5}, []),
        "sparsity": (dict.fromkeys(decoder.all_linears(), 0.5), [SparseGPTModifier(sparsity=0.5, ignore=["lm_head"])]),
    }
    ways: dict[str, dict[str, Any]] = {
        "cpu": {},
        "device": {"device": check.device},
        "memory": {"device": check.device, "offload": "cpu"},
        "files": {"device": check.device, "offload": "disk"},
    }
    for space, (units, more) in kinds.items():
        costs = subject_of(check, space, decoder).costs if space != "sparsity" else None
        share = 0.5 if costs is None else removed_share(costs.params, costs.row(units)).item()
        strategy = make_strategy(
            decoder, space, units, model=reference, sparsity=share, request=Request.of(sparsity=share), source="peer",
            peer="uniform",
        )  # fmt: skip
        saved: dict[str, dict[str, Tensor]] = {}
        for way, where in ways.items():
            output = check.folder / f"{space}-{way}"
            carried = SparsityProfileModifier(strategy=strategy.to_dict())
            rest = [type(modifier)(**modifier.model_dump(exclude_unset=True)) for modifier in more]
            needs_text = bool(more) or space == "structured"
            prune(check.dense, [carried, *rest], output, calibration=windows if needs_text else None, **where)
            saved[way] = load_file(output / "model.safetensors")
        assert all(tensors.keys() == saved["cpu"].keys() for tensors in saved.values()), f"{space}: other tensors"
        for way in ("device", "memory", "files"):
            pairs = [(saved[way][key], saved["cpu"][key]) for key in saved["cpu"]]
            differ = sum(int((one != other).sum()) for one, other in pairs)
            found[f"{space}_{way}_differ"] = differ / sum(one.numel() for one, _ in pairs)
        # Whole units are copied; what is computed rounds as the device does.
        assert space == "sparsity" or max(found[f"{space}_{way}_differ"] for way in ways if way != "cpu") < 1e-3, space


def blocks_8b(check: Check, found: Found) -> None:
    """Candidates of three spaces at full size."""
    shape = TINY if check.dry else SHAPES["Llama-3-8B"]
    decoder = find_decoder(check.random(shape, device=check.device))
    windows = check.windows(4, 256, shape[-1])
    for space in CUTTING:
        _, rows, payload = measured(check, space, decoder, None, windows)

        def fresh(space: str = space, payload: Payload | None = payload) -> Objective:
            objective, rows, _ = measured(check, space, decoder, payload, windows)
            objective.evaluate(rows[:1])  # the dense states, once for a whole search
            return objective

        objective = fresh()
        seconds, _ = check.timed(objective.evaluate, rows[1:])
        peak, count = check.peak(), len(rows) - 1
        objective = fresh()
        with FlopCounterMode(display=False) as flops:
            objective.evaluate(rows[1:])
        rate = flops.get_total_flops() / seconds
        found[space] = {
            "seconds_a_candidate": round(seconds / count, 4),
            "tokens_a_second": round(count * windows.numel() / seconds),
            "tflops": round(rate / 1e12, 3),
            "share_of_products": round(rate / check.rate, 3),
            "peak_gb": peak,
            "busy": busy(check, fresh(), rows[1:], seconds),
        }


def busy(check: Check, objective: Objective, rows: Tensor, seconds: float) -> float | None:
    """The share of ``seconds``, which measuring the rows takes unobserved, in which kernels run."""
    if not check.cuda:
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        objective.evaluate(rows)
        check.wait()
    kernels: float = sum(event.self_device_time_total for event in seen.key_averages())
    return round(kernels / 1e6 / seconds, 3)


def levels_8b(check: Check, found: Found) -> None:
    """What ``scale.py`` measures, on one block."""
    shape = (1, *(TINY if check.dry else SHAPES["Llama-3-8B"])[1:-1], 128)
    decoder = find_decoder(check.random(shape, device=check.device))
    windows = check.windows(8, 512, 128)
    if check.cuda:
        torch.cuda.reset_peak_memory_stats()
    found |= measure_levels(decoder, windows, check.folder / "levels-8b", inputs="pruned", device=str(check.device))


def streamed_70b(check: Check, found: Found) -> None:
    """Two blocks that wait in three places, for twelve candidates."""
    shape = (2, *(TINY if check.dry else SHAPES["Llama-3-70B"])[1:-1], 128)
    model = check.random(shape, device=check.device)
    block = sum(parameter.nbytes for parameter in find_decoder(model).blocks[0].parameters())
    model.save_pretrained(check.folder / "wide")
    del model
    found["block_gb"] = round(block / 1e9, 3)
    windows = check.windows(2, 512, 128)
    candidates = [(one, other) for one in range(4) for other in range(4) if one or other][:12]
    values = {}
    for place in ("none", "cpu", "disk"):
        decoder = find_decoder(load_model(check.folder / "wide", device=check.device, offload=place))
        BlockEvaluator(decoder, windows).evaluate_parts(candidates)  # kernels are chosen, files come into memory
        seconds, entries = check.timed(BlockEvaluator(decoder, windows).evaluate_parts, candidates)
        values[place] = [entry.value for entry in entries]
        found |= {f"seconds_{place}": round(seconds, 3), f"peak_gb_{place}": check.peak()}
    assert values["none"] == values["cpu"] == values["disk"], "a block that waits elsewhere gives other values"


# With the seconds that each may take on an H200 with 16 cores: guessed from docs/scale.md, nothing was measured.
STAGES: dict[Callable[[Check, Found], None], float] = {
    machine: 15,
    evaluation: 60,
    levels: 60,
    training: 150,
    oneshot: 60,
    blocks_8b: 90,
    levels_8b: 60,
    streamed_70b: 60,
}


@contextmanager
def quiet() -> Iterator[None]:
    """One line a stage, and nothing else on standard output."""
    os.environ["TQDM_DISABLE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def run(stage: Callable[[Check, Found], None], check: Check, left: float) -> dict[str, Any]:
    """One stage, its faults told and not raised: those behind it still run."""
    row: dict[str, Any] = {"stage": stage.__name__}
    if left < STAGES[stage]:
        return row | {"skipped": f"may take {STAGES[stage]:.0f} s, {left:.0f} are left"}
    started, found = time.perf_counter(), Found()
    row["ok"] = True
    try:
        stage(check, found)
    except Exception as error:  # whatever goes wrong there is what one wants to know
        where = traceback.format_exc().splitlines()[-8:-1]
        row |= {"ok": False, "error": f"{type(error).__name__}: {error}"[:500], "where": where}
    row |= found
    if check.cuda:
        torch.cuda.empty_cache()
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages in order, print a line for each, and write them down; exit code 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [stage.__name__ for stage in STAGES]
    parser.add_argument("--device")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes; on the CPU if no device is given")
    parser.add_argument("--stages", nargs="+", choices=names, default=names)
    parser.add_argument("--limit", type=float, default=570.0, metavar="SECONDS")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(arguments)
    started, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder, quiet():
        check = Check(torch.device(args.device or ("cpu" if args.dry_run else "cuda")), args.dry_run, Path(folder))
        for stage in STAGES:
            if stage.__name__ in args.stages:
                rows.append(run(stage, check, args.limit - (time.perf_counter() - started)))
                print(json.dumps(rows[-1]), flush=True)
    write_result(args.output, {"stages": rows}, device=str(check.device))
    sys.exit(any(not row.get("ok", True) for row in rows))


if __name__ == "__main__":
    main()
