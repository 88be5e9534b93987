"""Non-uniform sparsity from start to checkpoint: a level database, a profile, and a stitched answer.

    python examples/sparsify.py MODEL TEXT OUTPUT [SPARSITY]

MODEL is a folder or a name on the hub, TEXT a file to calibrate on. OUTPUT gets three folders: ``levels``, ``profile``
and ``pruned``. The first two are made once per model; run it again with another sparsity and only the last is made.
"""

import sys
from pathlib import Path

from unicuco_plugin import (
    PRESETS,
    LevelSettings,
    SparsityProfileModifier,
    UnitOptions,
    build_levels,
    find_decoder,
    load,
    load_profile,
    load_tokenizer,
    load_windows,
    prune,
    train_profile,
)

# Windows that the levels are solved on, and their length.
WINDOWS, LENGTH = 16, 512
LEVELS = LevelSettings()


def main(model: str, text: str, output: str, sparsity: str = "0.6") -> None:
    """Build, train, prune; what already exists is reused."""
    folder = Path(output)
    if not (folder / "profile" / "profile.json").exists():
        decoder = find_decoder(load(model))
        windows = load_windows([text], load_tokenizer(model), count=WINDOWS, length=LENGTH, seed=0)
        build_levels(decoder, windows, folder / "levels", name=model, settings=LEVELS, sources=[text], resume=True)
        units = UnitOptions(levels=folder / "levels", granularity="linear")
        train_profile(
            model,
            folder / "profile",
            space="sparsity",
            units=units,
            calibration=[text],
            settings=PRESETS["default"],
            resume=True,
        )
    strategy = load_profile(folder / "profile").answer(sparsity=float(sparsity))
    print(f"{len(strategy.units)} linears, {strategy.divergence.mean:.3f} nats per token expected")
    # Without levels=…, put a SparseGPTModifier after it, and give prune calibration windows.
    modifier = SparsityProfileModifier(strategy=strategy, levels=folder / "levels")
    done = prune(model, [modifier], folder / f"pruned-{sparsity}", overwrite=True)
    if done.achieved is not None:
        print(done.achieved.describe())


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
