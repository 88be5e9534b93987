"""Loads checkpoints in processes of their own and writes what they find: by our package, or without it at all.

Arguments: ways, each one of ``ours``, ``remote`` (the code in the folder) and ``stock`` (neither), with commas between
them; ``again`` or ``once``, whether they are saved again; then folders, each with ``ids.pt``. What a way finds goes to
``WAY.json`` in the current folder.
"""

import json
import os
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


def report(way: str, folders: list[str], *, twice: bool) -> None:
    if way != "ours":
        sys.modules["unicuco_plugin"] = None  # importing it is now an error, as where it is not installed
    load = loader(way)
    found = {folder: describe(load, Path(folder), twice=twice) for folder in folders}
    found["package"] = sys.modules.get("unicuco_plugin") is not None
    Path(f"{way}.json").write_text(json.dumps(found), encoding="utf8")


if __name__ == "__main__":
    ways, times, *given = sys.argv[1:]
    for one in ways.split(","):
        # What all begin with is imported once; nothing has run in this process yet, and no way sees another's modules.
        if not (child := os.fork()):
            report(one, given, twice=times == "again")
            sys.exit()
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(code)
