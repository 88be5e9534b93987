"""A process of its own that knows Transformers and nothing of ours: it judges pruned folders, one JSON line each.

What was removed is removed here by hand from the dense model, by another route than the package's: blocks hand on their
input, halves of blocks give zeros, weights are masked, inputs of output projections are zeroed.
"""

import contextlib
import json
import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

PROMPT, WRITTEN = 8, 8
# Largest part of the logits, mean over the vocabulary removed, that the order of sums may change; see docs/families.md.
NOISE = 1e-4


def judge(job: dict[str, Any]) -> str:
    """What is wrong with a pruned folder; empty where nothing is."""
    pruned, report = load(job["pruned"], own_code=job["own_code"])
    unfit = {key: sorted(map(str, value))[:2] for key, value in report.items() if value}
    if unfit:
        return f"does not load: {unfit}"
    dense, _ = load(job["dense"], own_code=False)
    ids = torch.randint(3, 128, (2, PROMPT + WRITTEN), generator=torch.Generator().manual_seed(3))
    plain = logits(dense, ids)
    if job["space"] == "sparsity":
        wrong = mask(dense, pruned, job["zeros"], {f"{name}.weight" for name in job["solved"]})
        if wrong:
            return wrong
    else:
        for name in job.get("bypass", ()):
            dense.get_submodule(name).register_forward_hook(hand_on, with_kwargs=True)
        for name in job.get("silence", ()):
            dense.get_submodule(name).register_forward_hook(give_zeros)
        for cut in job.get("cuts", ()):
            output = dense.get_submodule(cut["output"])
            output.register_forward_pre_hook(partial(keep_channels, torch.tensor(cut["channels"])))
            bias = cut["bias"] and torch.tensor(cut["bias"])
            output.register_forward_hook(partial(add, gone=not any(cut["channels"]), bias=bias))
    expected, found = logits(dense, ids), logits(pruned, ids)
    if not bool(torch.isfinite(expected).all()):
        return "the dense model without these units is not finite"
    if difference(found, expected) > NOISE:
        return f"{difference(found, expected):.1e} of the logits differ from the dense model's without these units"
    if difference(plain, expected) < 10 * NOISE:
        return "what was removed makes no difference, so nothing was shown"
    return check_cache(pruned, ids[:1, :PROMPT])


def load(folder: str, *, own_code: bool) -> tuple[Any, dict[str, Any]]:
    """Load a folder as a user does."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, trust_remote_code=own_code
    )
    return model.eval(), {key: report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}


def logits(model: Any, ids: Tensor) -> Tensor:
    """``rows x length x vocabulary``, without a cache."""
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, use_cache=False).logits.double()
    return found


def difference(one: Tensor, other: Tensor) -> float:
    """Median over positions of ``|z - z'| / |z'|``, ``z`` the logits less their mean."""
    one, other = (z - z.mean(-1, keepdim=True) for z in (one, other))
    return float(((one - other).norm(dim=-1) / other.norm(dim=-1).clamp_min(1e-30)).median())


def hand_on(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
    """What a block gives that computes nothing."""
    states = arguments[0] if arguments else named["hidden_states"]
    return states if isinstance(output, Tensor) else type(output)([states, *output[1:]])


def give_zeros(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
    """What half a block gives that computes nothing."""
    if isinstance(output, Tensor):
        return torch.zeros_like(output)
    return type(output)([torch.zeros_like(output[0]), *output[1:]])


def keep_channels(kept: Tensor, _: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs of an output projection without those of parts that are gone."""
    return (arguments[0] * kept, *arguments[1:])


def add(_: nn.Module, __: tuple[Any, ...], output: Tensor, *, gone: bool, bias: Tensor | None) -> Tensor:
    """The output with what stands for removed parts; a module that is gone takes its own bias with it."""
    output = torch.zeros_like(output) if gone else output
    return output if bias is None else output + bias


def mask(dense: nn.Module, pruned: nn.Module, zeros: int, solved: set[str]) -> str:
    """Zero in the dense model what is zero in the other one; say so where that is not what was asked.

    Linears that were ``solved`` keep other weights than they had; these are taken over.
    """
    other, added = pruned.state_dict(), 0
    with torch.no_grad():
        for name, tensor in dense.state_dict().items():
            kept = (other[name] != 0) | (tensor == 0)
            added += int((~kept).sum())
            if name in solved:
                tensor.copy_(other[name])
            tensor.mul_(kept)
            if not torch.equal(tensor, other[name]):
                return f"{name} is not the dense one with zeros in it"
    return "" if added == zeros else f"{added} weights are zero, expected {zeros}"


def check_cache(model: Any, prompt: Tensor) -> str:
    """Compare tokens written with the cache with those written without."""
    if not model.can_generate():
        return "it cannot generate"
    options = {"do_sample": False, "max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN, "pad_token_id": 0}
    written = []
    for cached in (True, False):
        model.generation_config = GenerationConfig(**options, use_cache=cached)
        with torch.no_grad():
            written.append(model.generate(prompt, attention_mask=torch.ones_like(prompt))[0].tolist())
    if len(written[0]) != PROMPT + WRITTEN:
        return f"wrote {len(written[0]) - PROMPT} tokens, expected {WRITTEN}"
    return "" if written[0] == written[1] else f"writes other text with its cache: {written[0]}, without {written[1]}"


def main() -> None:
    """Answer jobs until there are no more; stray prints of others go to stderr."""
    answers = sys.stdout
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            try:
                found = judge(json.loads(line))
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            answers.write(json.dumps(found[:600]) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
