"""Loads hostile folders by every loader, in a process of its own whose terminal answers yes to every question.

Arguments: a file for what is found, as JSON; then folders. Hostile code would add to the file that ``MARKER`` names.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def describe(call: Callable[[], Any]) -> str:
    try:
        return type(call()).__name__
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    import torch

    import unicuco_plugin
    from unicuco_plugin.models import loading

    assert sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()
    loaders: dict[str, Callable[[Path], Any]] = {
        "load": unicuco_plugin.load,
        "generate": lambda folder: unicuco_plugin.load(folder).generate(torch.tensor([[5, 6]]), max_new_tokens=2),
        "load_model": loading.load_model,
        "load_config": loading.load_config,
        "find_model": loading.find_model,
        "load_tokenizer": loading.load_tokenizer,
        "chat": lambda folder: loading.load_tokenizer(folder).apply_chat_template(
            [{"role": "user", "content": "w1"}], tokenize=False
        ),
    }
    output, *folders = map(Path, sys.argv[1:])
    found = {
        folder.name: {name: describe(lambda folder=folder, load=load: load(folder)) for name, load in loaders.items()}
        for folder in folders
    }
    output.write_text(json.dumps(found))
