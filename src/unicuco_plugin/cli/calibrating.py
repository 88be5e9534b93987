"""Calibration windows of ``unicuco prune``: from text, or written by the dense model itself."""

from functools import partial
from typing import TYPE_CHECKING, Any

from unicuco_plugin.cli.output import say
from unicuco_plugin.files.cache import cache_folder

if TYPE_CHECKING:  # it brings torch with it
    from torch import Tensor

    from unicuco_plugin.modifiers.export.oneshot import Calibrate

__all__ = ["read_windows", "write_own"]


def write_own(fields: dict[str, Any]) -> "Calibrate":
    """Windows that the dense model writes once it is loaded."""
    from unicuco_plugin.texts.selfcalibration import generate_windows

    names = {"samples": "count", "seq_length": "length", "seed": "seed"}
    options = {name: fields[field] for field, name in names.items()}
    say(f"no --calibration: the model writes {options['count']} windows of its own", err=True)
    return partial(generate_windows, cache_dir=cache_folder(), **options)


def read_windows(fields: dict[str, Any]) -> "Tensor | None":
    """Calibration windows, where there is text for them."""
    if not fields["calibration"]:
        return None
    from unicuco_plugin.models.loading import load_tokenizer
    from unicuco_plugin.models.reach import load_reach
    from unicuco_plugin.texts.calibration import load_windows

    hub = {"revision": fields["revision"], "trust_remote_code": fields["trust_remote_code"]}
    tokenizer = load_tokenizer(fields["model"], **hub)
    return load_windows(
        fields["calibration"],
        tokenizer,
        count=fields["samples"],
        length=fields["seq_length"],
        seed=fields["seed"],
        split=fields["split"],
        reach=load_reach(fields["model"], **hub),
    )
