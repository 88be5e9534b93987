"""A package that answers as vLLM does, in which time is what a configuration says: no wheel or clock is needed."""

__all__ = ["ATTENTION", "MLP", "REST", "STORED", "write_stub"]

# Milliseconds of a token, by a block's half as configured; each token of a prompt takes a tenth.
ATTENTION, MLP, REST = 2.0, 1.0, 5.0
# What a linear saves, or costs, by the bits it is stored in.
STORED = {4: 0.1, 8: -0.02}

_ENGINE = f"""
import json, os, time
from pathlib import Path
from types import SimpleNamespace

NOW, ROOM = [0.0], int(os.environ.get("STUB_ROOM", "1000"))
time.perf_counter = lambda: NOW[0]

class SamplingParams:
    def __init__(self, **options):
        self.most = options["max_tokens"]
        assert options["ignore_eos"] and not options["detokenize"]

class LLM:
    def __init__(self, model, load_format, trust_remote_code, max_model_len, max_num_seqs, **options):
        folder = Path(model)
        config = json.loads((folder / "config.json").read_text())
        if config["model_type"] == "refused":
            raise ValueError("No class for models of this kind")
        if max_model_len > 10**6:
            raise ValueError("1 validation error for ModelConfig\\n  Value error, max_model_len is too large")
        if os.environ.get("STUB_WAITS"):
            Path(os.environ["STUB_WAITS"]).write_text(str(os.getpid()))
            time.sleep(600)
        if load_format == "auto":
            assert list(folder.glob("*.safetensors")), "no weights"
        wide, count = config.get("intermediate_size"), config.get("num_hidden_layers")
        blocks = config.get("block_configs")
        if blocks is not None:
            assert trust_remote_code and config["architectures"] == ["DeciLMForCausalLM"] and len(blocks) == count
            assert not blocks[0]["attention"]["no_op"]
        else:
            blocks = [{{"attention": {{"no_op": False}}, "ffn": {{"no_op": False}}}}] * count
        self.ms = {REST} + sum(
            (0.0 if one["attention"]["no_op"] else {ATTENTION})
            + (0.0 if one["ffn"]["no_op"] else {MLP} * (one["ffn"].get("intermediate_size") or wide) / wide)
            for one in blocks
        )
        stored = config.get("quantization_config", {{"config_groups": {{}}}})
        for group in stored["config_groups"].values():
            assert stored["quant_method"] == "compressed-tensors"
            assert not set(group["targets"]) & set(stored["ignore"])
            self.ms -= {STORED}[group["weights"]["num_bits"]] * len(group["targets"])
        self.limits = max_model_len, max_num_seqs
        self.model_config = SimpleNamespace(get_vocab_size=lambda: 7)
        self.llm_engine, self.waiting, self.written = self, {{}}, {{}}

    def add_request(self, name, prompt, sampling):
        assert all(0 <= token < 7 for token in prompt["prompt_token_ids"])
        assert len(prompt["prompt_token_ids"]) + sampling.most <= self.limits[0]
        self.waiting[name] = len(prompt["prompt_token_ids"])
        assert len(self.waiting) + len(self.written) <= self.limits[1]
        self.most = sampling.most

    def has_unfinished_requests(self):
        return bool(self.waiting or self.written)

    def abort_request(self, names):
        for name in names:
            self.written.pop(name, None)

    def step(self):
        # Prompts of 512 tokens together in a step; those before go on meanwhile. Others wait for room.
        done = [name for name, tokens in self.written.items() if len(tokens) >= self.most]
        for name in done:
            self.written.pop(name)
        read = 0
        while self.waiting and len(self.written) < ROOM and (not read or read + min(self.waiting.values()) <= 512):
            name = next(iter(self.waiting))
            read += self.waiting.pop(name)
            self.written[name] = []
        if read:
            NOW[0] += 1e-4 * self.ms * read
        else:
            NOW[0] += 1e-3 * self.ms * len(self.written)
        found = []
        for name, tokens in self.written.items():
            tokens.append(1)
            found.append(SimpleNamespace(request_id=name, outputs=[SimpleNamespace(token_ids=list(tokens))]))
        return found
"""
_FILES = {
    "__init__.py": _ENGINE,
    "inputs.py": "TokensPrompt = dict\n",
    "platforms.py": "from types import SimpleNamespace\ncurrent_platform = SimpleNamespace("
    'device_type="cuda", get_device_name=lambda: "a card")\n',
}


def write_stub(folder):
    """Write the package into a folder, which PYTHONPATH must name."""
    (folder / "vllm").mkdir(parents=True)
    for name, text in _FILES.items():
        (folder / "vllm" / name).write_text(text)
    return folder
