"""Loads checkpoints with stock Transformers alone and prints what it finds; run as a program of its own."""

import json
import sys

import torch
from transformers import AutoModelForCausalLM


@torch.no_grad()
def describe(folder: str) -> dict[str, object]:
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model.eval()
    logits = model(torch.arange(3, 43)[None]).logits.float()
    # In bfloat16 two nearly equal logits may change places between a cached and an uncached step.
    if model.dtype is torch.bfloat16:
        model.float()
    prompt = torch.arange(3, 11)[None]
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached, uncached = (model.generate(prompt, **options, use_cache=use)[0].tolist() for use in (True, False))
    return {
        "blocks": model.config.num_hidden_layers,
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "quantised": getattr(model.config, "quantization_config", None) is not None,
        "logits": logits[0].tolist(),
        "cached": cached,
        "uncached": uncached,
    }


if __name__ == "__main__":
    json.dump({folder: describe(folder) for folder in sys.argv[1:]}, sys.stdout)
