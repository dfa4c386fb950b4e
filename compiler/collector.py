"""Python's cyclic garbage collector, while the compiler works."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Without the collector: nearly all that a compiler makes lives on, so to look through it again and again takes a
    tenth of the time and finds nothing.  What has no cycles is freed as ever; what was made is old at the end, and only
    looked through when all is."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():       # what others have set aside stays there
                gc.freeze()
                gc.unfreeze()
            gc.enable()
