"""``unicuco unpack``: the checkpoint folder that was packed."""

from pathlib import Path

import click

from unicuco_plugin.cli.options import debug_option, json_option, overwrite_option
from unicuco_plugin.cli.output import say
from unicuco_plugin.report.archive import archive_data, describe_unpack

__all__ = ["unpack"]


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The checkpoint's folder, a new one.")
@overwrite_option
@json_option
@debug_option
def unpack(archive: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Unpack an archive of unicuco pack into the original checkpoint folder, bit for bit.

    A truncated or edited archive is refused. The folder appears complete or not at all.
    """
    from dataclasses import replace

    from unicuco_plugin.models.checkpoints.archive import unpack_archive
    from unicuco_plugin.models.output_folder import check_output
    from unicuco_plugin.models.staging import staged_folder

    check_output(output, overwrite=overwrite, inputs=[archive])
    with staged_folder(output, overwrite=overwrite) as stage:
        done = unpack_archive(archive, stage)
    done = replace(done, path=output)
    say(archive_data(done) if as_json else describe_unpack(done))
