"""The command ``unicuco`` itself: finds the subcommand and imports no other."""

import importlib
import os
from typing import Any

import click
import wrapt

from unicuco_plugin.cli.failure import QUIET, reporting
from unicuco_plugin.cli.options import debug_option

__all__ = ["CommandGroup", "main"]

# In the order of use, with the first sentence of each: --help must not import torch to know them. A test holds them to
# what the commands themselves say.
_COMMANDS = {
    "train": "Train a profile: measure strategies on the model, and learn to answer any request from them.",
    "strategy": "Answer a request from PROFILE, a folder or the name of a packaged profile, in milliseconds.",
    "serve": "Answer requests from profiles for many clients over HTTP, with a page that shows them.",
    "show": "Show the best strategy of PROFILE at every budget, and how the profile was made.",
    "levels": "Build or show a level database: every linear of a model, pruned at a ladder of sparsities or quantised.",
    "prune": "Prune a model with a profile, a peer, a strategy or a recipe, and write the checkpoint.",
    "heal": "Heal a pruned CHECKPOINT: low-rank adapters learn the dense model's distribution and are merged.",
    "check": "Say whether vLLM loads a compressed-tensors checkpoint, and with which kernels.",
    "pack": "Pack a sparse checkpoint into one archive without its zeros, for storage and transfer.",
    "unpack": "Unpack an archive of unicuco pack into the original checkpoint folder, bit for bit.",
    "evaluate": "Evaluate a model, alone or beside a pruned one, on windows of each TEXT, on zero-shot tasks, or both.",
    "benchmark": "Compare methods: run FILE.yaml's methods at its budgets and seeds, and write tables and pictures.",
    "demo": "Prune SmolLM2-135M with a packaged profile, export it, and compare it with the dense model.",
    "plugins": "List spaces, objectives, peers and all else that is chosen by name, each with its package.",
}


def _obeying(module: Any) -> None:  # noqa: ANN401 - compressed-tensors has no types
    bar = module.tqdm

    def obedient(*args: Any, disable: bool = False, **options: Any) -> Any:  # noqa: ANN401 - tqdm's signature
        return bar(*args, **options, **({"disable": True} if disable else {}))

    module.tqdm = obedient


# These two say that they are not disabled, which would win over the environment.
for _name in ("compressed_tensors.offload.dispatch", "compressed_tensors.quantization.lifecycle.apply"):
    wrapt.register_post_import_hook(_obeying, _name)


class CommandGroup(click.Group):
    """Imports a subcommand when it is asked for; whatever it raises becomes one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands in the order of use."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand; None where there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"unicuco_plugin.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the subcommand; see :func:`unicuco_plugin.cli.failure.reporting`."""
        with reporting(ctx):
            # Bars of other packages: tqdm reads this once, when it is imported. Downloads show theirs all the same.
            os.environ.setdefault(QUIET, "1")
            return super().invoke(ctx)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="unicuco-plugin", prog_name="unicuco")
@debug_option
def main() -> None:
    """Train one small policy for a language model, once; then answer any compression request for it.

    Exit codes: 0 done, 1 an error that one line on standard error explains, 2 a wrong option, 130 interrupted.
    """
