"""Builds objectives from their specifications in a process of its own, and prints what strategies score, bit for bit.

Argument: a folder with ``dense``, ``windows.safetensors`` and, for each space, ``NAME.json`` (``spec`` and ``keys`` of
strategies) and perhaps ``NAME-parts.safetensors``, its payload.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.objectives.specification import ObjectiveSpec
from unicuco_plugin.payload import Payload
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.plugins.objective import Site, build_objective


def scores(folder: Path, name: str) -> list[list[str]]:
    data: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf8"))
    spec = ObjectiveSpec.from_dict(data["spec"])
    parts = folder / f"{name}-parts.safetensors"
    payload = Payload("parts", load_file(parts)) if parts.exists() else None
    site = Site.open(spec, find_decoder(load_model(folder / "dense")), payload=payload)
    objective = build_objective(spec, site, load_file(folder / "windows.safetensors")["windows"])
    space = make_space(**spec.space.model_dump())
    found = objective.evaluate(torch.stack([space.parse(key) for key in data["keys"]]))
    return [[value.hex() for value in (evaluation.value, *evaluation.per_window)] for evaluation in found]


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    json.dump({path.stem: scores(folder, path.stem) for path in sorted(folder.glob("*.json"))}, sys.stdout)
