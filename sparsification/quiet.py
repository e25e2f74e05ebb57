"""Context managers that silence Transformers' progress bars and warnings.

Log level and progress bars are settings of the whole process. A library function that loads a model must restore them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import huggingface_hub.utils as hub
from transformers.utils import logging


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the progress bars of Transformers and of the hub; the previous settings are restored."""
    bars, hub_hides = logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    logging.disable_progress_bar()  # also disables the hub's
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()  # also enables the hub's
        if hub_hides != hub.are_progress_bars_disabled():
            (hub.disable_progress_bars if hub_hides else hub.enable_progress_bars)()


@contextlib.contextmanager
def errors_only() -> Iterator[None]:
    """Hide Transformers' warnings and progress bars; the previous settings are restored."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_progress_bars():
            yield
    finally:
        logging.set_verbosity(level)
