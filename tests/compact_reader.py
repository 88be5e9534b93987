"""Loads checkpoints in a process of its own and prints what it finds: by our package, or without it at all.

Arguments: ``ours``, ``remote`` (the code in the folder) or ``stock`` (neither); ``again`` or ``once``, whether they are
saved again; then folders, each with ``ids.pt``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers as tf


def loader(way: str) -> Any:
    if way == "ours":
        import unicuco_plugin

        return unicuco_plugin.load
    options = {"trust_remote_code": True} if way == "remote" else {}
    return lambda folder: tf.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


@torch.no_grad()
def describe(load: Any, folder: Path, *, twice: bool) -> dict[str, Any]:
    ids = torch.load(folder / "ids.pt")
    try:
        model = load(folder)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(ids)
    cached, uncached = (model.generate(ids, use_cache=use, **options).tolist() for use in (True, False))
    logits = model(ids).logits
    found = {"class": type(model).__name__, "logits": logits.tolist(), "cached": cached, "uncached": uncached}
    if twice:
        again = folder.parent / f"{folder.name}-again"
        model.save_pretrained(again)
        found["again"] = torch.equal(load(again)(ids).logits, logits)
    return found


if __name__ == "__main__":
    way, times, *folders = sys.argv[1:]
    if way != "ours":
        sys.modules["unicuco_plugin"] = None  # importing it is now an error, as where it is not installed
    load = loader(way)
    report = {folder: describe(load, Path(folder), twice=times == "again") for folder in folders}
    json.dump({"package": sys.modules.get("unicuco_plugin") is not None, **report}, sys.stdout)
