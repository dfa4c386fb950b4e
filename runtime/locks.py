"""Locks that a forked child finds open: in the parent, a thread that does not exist in the child may hold them."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

_owners: weakref.WeakSet = weakref.WeakSet()


def own_lock(owner: Any) -> None:
    """Give an object a lock, ``owner._lock``, and another one in each forked child.

    What it protects must be whole whenever another thread could fork: made aside, and put in place by one assignment.
    """
    owner._lock = threading.RLock()
    _owners.add(owner)


def _renew() -> None:
    for owner in _owners:
        owner._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
