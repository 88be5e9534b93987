"""``unicuco serve``: answers for many, over HTTP."""

import importlib.util
import os
from pathlib import Path

import click

from unicuco_plugin.cli.options import debug_option, device_table_option
from unicuco_plugin.cli.output import say
from unicuco_plugin.errors import RequestError, quoted

__all__ = ["serve"]

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")
_LOCAL = ("127.0.0.1", "::1", "localhost")


@click.command()
@click.argument("profiles", nargs=-1, required=True, metavar="PROFILE_OR_FOLDER...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Its port; 0: any free one."
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that answer.")
@click.option(
    "--token-env", metavar="NAME", help="Environment variable with the token that clients must send (Bearer)."
)
@device_table_option
@debug_option
def serve(
    profiles: tuple[str, ...], *, host: str, port: int, workers: int, token_env: str | None, device_table: Path | None
) -> None:
    """Answer requests from profiles for many clients over HTTP, with a page that shows them.

    Each PROFILE_OR_FOLDER is a profile, a folder of profiles, or the name of a packaged profile.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(f"unicuco serve needs {', '.join(missing)}: pip install 'unicuco-plugin[serve]'")
    if token_env is not None and not os.environ.get(token_env, "").strip():
        raise RequestError(f"--token-env must name a variable that holds a token, got {quoted(token_env)}: empty")
    if host not in _LOCAL and token_env is None:
        say(f"note: anyone who reaches {host} may ask; --token-env NAME lets only those who know a token", err=True)
    from unicuco_plugin.web.app import Service
    from unicuco_plugin.web.library import Library
    from unicuco_plugin.web.run import run_service

    sources = tuple(str(Path(source).expanduser()) for source in profiles)
    names = sorted(Library(sources, device_table=device_table).served)
    shown = f"{len(names)} profiles" if len(names) > 1 else names[0]
    made = Service(sources, token_env, device_table)
    run_service(made, host, port, workers, lambda url: say(f"serving {shown} at {url}", err=True))
