"""Divergence against the bytes of the checkpoint, of every method that was measured: docs/figures/bytes.png.

    python benchmarks/bytes_picture.py

No model is needed: answers and their divergences are those of ``results/``: ``peers-depth.json``, ``peers-bits.json``,
``structured-quality.json``, ``compensation-trained.json``, ``compensation-structured.json`` and ``compound.json``. All
are means of both texts on the reference's 16 windows of each. Bytes come from the tables of the packaged profiles. Of
methods with seeds the first is drawn.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from common import ROOT
from compensation import BUDGETS
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unicuco_plugin import Profile, load_profile
from unicuco_plugin.report.axes import add_legend, new_axes, scale_plainly
from unicuco_plugin.report.figure import COLOURS, MARKERS, save_figure

RESULTS = ROOT / "benchmarks" / "results"
DEPTH = ("unicuco", "greedy", "evopress_super_fast_whole", "shortgpt")
TEXTS = ("encyclopedia", "techdocs")
# Nats: beyond them a model is of no use, and the picture would show little else.
MOST = 3.0
PLAIN, CALIBRATED = 16_384, 65_536  # tokens that biases, and corrections, are solved from
TRAINED = "profile ridge-0"  # of several seeds
PALETTE = 48  # colours of the picture: a third of its bytes
Point = tuple[float, float]


def read(name: str) -> dict[str, Any]:
    """A committed result."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf8"))
    return found


@cache
def profile_of(space: str) -> Profile:
    """The packaged profile of a space, read once."""
    return load_profile(f"smollm2-135m-instruct-{space}")


def bytes_of(space: str, units: Mapping[str, Any]) -> int:
    """What a strategy's checkpoint has, by the table of the packaged profile."""
    profile = profile_of(space)
    return int(profile.costs.of("bytes", profile.search_space.from_units(units)[None]))


def lines() -> Iterator[tuple[str, str, list[Point]]]:
    """What is removed, whose answers, and their megabytes and divergences."""
    rows = [row for row in read("peers-depth")["rows"] if row["group"] == "methods" and row["seed"] == 0]
    for method in DEPTH:
        own = [row for row in rows if row["method"] == method]
        yield "blocks", method, [_point(bytes_of("depth", dict.fromkeys(row["units"], 1.0)), row) for row in own]
    trained = read("compensation-trained")["rows"]
    corrected = [row for row in trained if row["calibration_tokens"] == CALIBRATED and TRAINED in row["answers"]]
    points = [
        (bytes_of("depth", {f"model.layers.{block}": 1.0 for block in row["removed"]}) / 1e6, _mean(row))
        for row in corrected
    ]
    yield "blocks", "unicuco, ridge", points
    profile, rows = profile_of("structured"), read("compensation-structured")["rows"]
    sizes = [profile.answer(sparsity=budget).bytes / 1e6 for budget in BUDGETS["structured"]]
    for compensation, name, tokens in (("none", "unicuco", PLAIN), ("ridge", "unicuco, ridge", CALIBRATED)):
        asked = compensation, tokens
        own = [_mean(row) for row in rows if (row["compensation"], row["calibration_tokens"]) == asked]
        yield "parts", name, list(zip(sizes, own, strict=True))
    cells = read("structured-quality")["cells"]
    own = [cell for name, cell in cells.items() if name.startswith("uniform/") and name.endswith("/bias")]
    means = [sum(cell[text][0] for text in TEXTS) / len(TEXTS) for cell in own]
    yield "parts", "uniform", [(bytes_of("structured", c["units"]) / 1e6, m) for c, m in zip(own, means, strict=True)]
    bits = read("peers-bits")["rows"]
    for method in dict.fromkeys(row["method"] for row in bits if row["group"] == "methods"):
        own = [row for row in bits if row["method"] == method and row["seed"] == 0]
        yield "bits", method, [_point(bytes_of("precision", row["units"]), row) for row in own]
    compound = read("compound")["rows"]
    for method in ("compound", "four_bits_and_depth", "four_bits_and_structured"):
        own = [row for row in compound if row["method"] == method and "bytes" in row]
        points = [(row["bytes"] / 1e6, _mean(row)) for row in own]
        yield "both", "unicuco" if method == "compound" else method, points


def _mean(row: Mapping[str, Any]) -> float:
    return sum(float(row[text]) for text in TEXTS) / len(TEXTS)


def _point(size: int, row: Mapping[str, Any]) -> Point:
    return size / 1e6, sum(row["divergence"][text]["mean"] for text in TEXTS) / len(TEXTS)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "figures" / "bytes.png")
    asked = parser.parse_args()
    figure, axes = new_axes(9.5, 5.5, "What the bytes of a checkpoint buy (SmolLM2-135M-Instruct, dense: 269 MB)")
    kinds: list[str] = []
    for place, (kind, method, points) in enumerate(lines()):
        shown = sorted(point for point in points if point[1] <= MOST)
        kinds += [kind] if kind not in kinds else []
        style = {"color": COLOURS[kinds.index(kind)], "marker": MARKERS[place % len(MARKERS)], "markersize": 5}
        style |= {"linewidth": 2.2} if method.startswith("unicuco") else {"linewidth": 0.9, "linestyle": "--"}
        axes.plot(*zip(*shown, strict=True), label=f"{kind}: {method}", **style)
        print(kind, method, [(round(size, 1), round(value, 3)) for size, value in shown])
    scale_plainly(axes)
    axes.set_xlabel("weight files (MB)")
    axes.set_ylabel("divergence from the dense model (nats per token),\nmean over texts")
    add_legend(figure, axes)
    save_figure(figure, asked.output)
    with Image.open(asked.output) as drawn:
        own = PngInfo()
        own.add_text("Software", drawn.info["Software"])  # by which it is known as ours
        smaller = drawn.convert("RGB").quantize(PALETTE)
    smaller.save(asked.output, optimize=True, pnginfo=own)


if __name__ == "__main__":
    main()
