"""Train a depth profile for your own model, then ask it for several budgets.

    python examples/train_profile.py MODEL OUTPUT [TEXT...]

MODEL is a folder or a name on the hub. Without TEXT the model writes its own calibration text. Ctrl-C stops cleanly;
the same command continues from there.
"""

import sys
from pathlib import Path

from unicuco_plugin import PRESETS, Progress, Request, train_profile


def main(model: str, output: str, *texts: str) -> None:
    """Train, or continue, and print the answers."""
    profile = train_profile(
        model,
        Path(output),
        space="depth",
        calibration=texts,
        settings=PRESETS["default"].model_copy(update={"seed": 0}),
        resume=True,
        progress=show,
    )
    print(f"{profile.provenance['evaluation_tokens']:,} evaluation tokens, {profile.provenance['seconds']} s")
    requests = [Request.of(sparsity=share) for share in (0.1, 0.2, 0.3, 0.4, 0.5)]
    for request, strategy in zip(requests, profile.answer_many(requests), strict=True):
        divergence = strategy.divergence
        known = "measured" if divergence.measured else "predicted"
        print(f"sparsity {request.sparsity}: {len(strategy.units)} blocks, {divergence.mean:.3f} nats/token {known}")


def show(progress: Progress) -> None:
    """Print what a stage found."""
    if progress.message:
        print(f"{progress.done}/{progress.total} {progress.message}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
