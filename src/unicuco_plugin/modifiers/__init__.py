"""The toolkit's lifecycle and nothing else: the modifier, recipes, and the checkpoint that they make."""

import os
import sys


def _import_toolkit() -> None:
    """Import the toolkit without the messages that it prints to standard output while doing so."""
    switch = "LLM_COMPRESSOR_LOG_DISABLED"
    if "llmcompressor" in sys.modules or switch in os.environ:
        return
    os.environ[switch] = "true"
    try:
        import llmcompressor  # noqa: PLC0415
    finally:
        del os.environ[switch]
    llmcompressor.configure_logger(llmcompressor.LoggerConfig())


_import_toolkit()
