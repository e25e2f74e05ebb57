"""Transformers without progress bars, or without warnings as well, for the time of a block.

Its log level and its bars are one setting for the whole process: a library function that loads a model must not leave
them changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import huggingface_hub.utils as hub
from transformers.utils import logging


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Show none of Transformers' and the hub's progress bars, then go back to what was set before."""
    bars, hub_hides = logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    logging.disable_progress_bar()  # and the hub's
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()  # and the hub's
        if hub_hides != hub.are_progress_bars_disabled():
            (hub.disable_progress_bars if hub_hides else hub.enable_progress_bars)()


@contextlib.contextmanager
def errors_only() -> Iterator[None]:
    """Let Transformers show errors alone, neither warnings nor bars, then go back to what was set before."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_progress_bars():
            yield
    finally:
        logging.set_verbosity(level)
