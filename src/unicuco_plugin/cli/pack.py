"""``unicuco pack``: a checkpoint folder in one file, without its zeros."""

from pathlib import Path

import click

from unicuco_plugin.cli.options import debug_option, json_option, overwrite_option
from unicuco_plugin.cli.output import say
from unicuco_plugin.report.archive import archive_data, describe_pack

__all__ = ["pack"]


@click.command()
@click.argument("checkpoint_dir", type=click.Path(path_type=Path))
@click.option(
    "--output",
    required=True,
    metavar="FILE|DIR",
    type=click.Path(path_type=Path),
    help="The archive, ending in .unicuco, or an existing folder to put it into.",
)
@overwrite_option
@json_option
@debug_option
def pack(checkpoint_dir: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Pack a sparse checkpoint into one archive without its zeros, for storage and transfer.

    The archive holds every file of the folder. No tool loads it as a model: unpack it first, which restores every
    file bit for bit. It appears complete or not at all.
    """
    from unicuco_plugin.models.checkpoints.archive import pack_folder

    done = pack_folder(checkpoint_dir, output, overwrite=overwrite)
    say(archive_data(done) if as_json else describe_pack(done))
