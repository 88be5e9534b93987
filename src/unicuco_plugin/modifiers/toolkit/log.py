"""How much the toolkit says."""

import os
import sys
from typing import Any

from llmcompressor.logger import LoggerConfig, configure_logger, support_log_once
from loguru import logger

__all__ = ["set_toolkit_verbosity"]

_VARIABLE = "LLM_COMPRESSOR_LOG_LEVEL"


def set_toolkit_verbosity(*, verbose: bool) -> None:
    """Send the toolkit's messages to standard error, warnings only unless ``verbose``.

    On import it writes everything from INFO on to standard output, where a machine may be reading. What the user has
    set in ``LLM_COMPRESSOR_LOG_LEVEL`` stays in force.
    """
    if os.environ.get(_VARIABLE):
        return
    configure_logger(LoggerConfig(console_log_level=None))
    if verbose:
        logger.add(sys.stderr, level="INFO", format="{message}", filter=support_log_once)
    else:
        logger.add(sys.stderr, level="WARNING", format="{message}", filter=_is_warning)


def _is_warning(record: Any) -> bool:  # noqa: ANN401 - loguru's record
    # METRIC ranks above WARNING; that there is no accelerator was the caller's choice of device.
    news = record["level"].name != "METRIC" and record["function"] != "get_main_device"
    return news and support_log_once(record)
