"""What compensations do to a depth profile's answers: divergence on two texts, with each method as its paper has it.

No correction is left out here (a recipe leaves out what raises the divergence on windows held out): what stands in a
row is the method. Corrections are folded into the weights, the model measured, and the weights put back.
"""

import argparse
import time
from pathlib import Path

import torch
from common import SHARED, TEXTS, reference_windows, removed, write_result

from unicuco_plugin.answering import load_profile
from unicuco_plugin.compensation.compensate import compensate
from unicuco_plugin.compensation.dense_states import DenseStates, run_blocks
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.plugins.manager import make_compensation
from unicuco_plugin.request import Request
from unicuco_plugin.texts.calibration import load_windows


def main() -> None:
    """Measure each method at each size, and write after each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", default="smollm2-135m-instruct-depth")
    parser.add_argument("--blocks", type=int, nargs="+", default=[11, 8, 4])
    parser.add_argument("--methods", nargs="+", default=["none", "scale", "linear", "ridge"])
    parser.add_argument("--calibration-windows", type=int, default=16)
    parser.add_argument("--windows", type=int, default=4, help="of 512 tokens, of each text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "compensation.json")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    decoder = find_decoder(load_model(asked.model, dtype="float32"))
    files = [SHARED / "data" / "text" / f"calib_{name}.txt" for name in ("webtext", "wikipedia")]
    tokenizer = load_tokenizer(asked.model)
    calibration = load_windows(files, tokenizer, count=asked.calibration_windows, length=512, seed=0)
    texts = torch.cat([reference_windows(asked.model, text)[: asked.windows] for text in TEXTS])
    runner = BlockRunner(decoder, 512)
    divergences = DivergenceHead(runner).divergences
    dense = DenseStates(runner, calibration, keep=True)
    count, profile, rows = len(decoder.blocks), load_profile(asked.profile), []
    final = torch.cat(run_blocks(runner, range(count), [runner.embed(texts)]))
    for blocks in asked.blocks:
        gone = removed(profile.answer(Request.of(sparsity=blocks / count)))
        found, finals = {}, []
        for name in asked.methods:
            began = time.perf_counter()
            done = compensate(dense, gone, make_compensation(name))
            seconds = time.perf_counter() - began
            restore = done.fold(decoder, gone)
            finals += run_blocks(runner, [index for index in range(count) if index not in gone], [runner.embed(texts)])
            restore()
            found[name] = {"cuts": len(done.corrected), "seconds": round(seconds, 1)}
        for name, values in zip(asked.methods, divergences(final, finals), strict=True):
            for place, text in enumerate(TEXTS):
                own = values[place * asked.windows : (place + 1) * asked.windows]
                found[name][text] = round(sum(own) / len(own), 4)
            print(blocks, name, found[name], flush=True)
        rows.append({"blocks": blocks, "removed": list(gone), "methods": found})
        windows = {"calibration_tokens": dense.tokens, "evaluation_windows": asked.windows, "dtype": "float32"}
        write_result(asked.output, windows | {"rows": rows})


if __name__ == "__main__":
    main()
