"""What the packaged profiles know, in six pictures; it loads no model and takes seconds.

    python examples/gallery.py FOLDER

FOLDER gets the pictures, as SVG.
"""

import io
import sys
from pathlib import Path

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from unicuco_plugin import Profile, Request, load_profile

NAMES = ("depth", "sparsity", "structured")


def front(profile: Profile) -> Figure:
    """Divergence of the best strategy at each budget, with its 90 % interval."""
    figure, axes = new_figure("share of prunable weights removed", "nats per token")
    for strategy in profile.front():
        low, high = strategy.divergence.interval90
        colour = "#0072B2" if strategy.divergence.measured else "#D55E00"
        axes.plot([strategy.sparsity] * 2, [low, high], color=colour)
        axes.plot(strategy.sparsity, strategy.divergence.mean, "o", color=colour)
    axes.set_yscale("log")
    return figure


def preferences(profile: Profile) -> Figure:
    """How much goes at each preference between size and quality."""
    figure, axes = new_figure("weight of size in the preference", "share of prunable weights removed")
    weights = [step / 20 for step in range(1, 20)]
    answers = profile.answer_many([Request.of(preference=(weight, 1 - weight)) for weight in weights])
    axes.plot(weights, [strategy.sparsity for strategy in answers], "o-", color="#0072B2")
    return figure


def units(profile: Profile, sparsity: float) -> Figure:
    """How much of each unit goes at one sparsity, in the order of the model."""
    figure, axes = new_figure("unit", "share removed")
    removed = profile.answer(sparsity=sparsity).units
    shares = [removed.get(unit, 0.0) for unit in profile.search_space.units]
    axes.bar(range(len(shares)), shares, width=1.0, color="#0072B2")
    return figure


def new_figure(x: str, y: str) -> tuple[Figure, object]:
    """An empty figure with named axes, made without a display."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def draw_all() -> dict[str, bytes]:
    """Draw every picture: SVG by file name."""
    profiles = {name: load_profile(f"smollm2-135m-instruct-{name}") for name in NAMES}
    figures = {f"front-{name}.svg": front(profile) for name, profile in profiles.items()}
    figures["preferences.svg"] = preferences(profiles["depth"])
    figures |= {f"units-{name}.svg": units(profiles[name], 0.5) for name in ("sparsity", "structured")}
    return {name: to_svg(figure) for name, figure in figures.items()}


def to_svg(figure: Figure) -> bytes:
    """A figure as SVG."""
    file = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(file)
    return file.getvalue()


def main(folder: str) -> None:
    """Write the pictures into a folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, picture in draw_all().items():
        (Path(folder) / name).write_bytes(picture)
        print(Path(folder) / name)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
