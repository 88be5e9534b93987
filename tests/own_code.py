"""A tiny checkpoint that comes with code of its own."""

import json
from pathlib import Path

from tiny import tiny_model, tiny_tokenizer

__all__ = ["write_own_code"]


def write_own_code(folder: Path) -> Path:
    """A Llama under another name, with its two files of code."""
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer(folder)
    (folder / "configuration_my.py").write_text(
        'from transformers import LlamaConfig\nclass MyConfig(LlamaConfig):\n    model_type = "my_llama"\n'
    )
    (folder / "modeling_my.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_my import MyConfig\n"
        "class MyForCausalLM(LlamaForCausalLM):\n    config_class = MyConfig\n"
    )
    path = folder / "config.json"
    auto = {"AutoConfig": "configuration_my.MyConfig", "AutoModelForCausalLM": "modeling_my.MyForCausalLM"}
    names = {"model_type": "my_llama", "architectures": ["MyForCausalLM"], "auto_map": auto}
    path.write_text(json.dumps(json.loads(path.read_text()) | names))
    return folder
