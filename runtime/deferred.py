"""NumPy, imported when something is evaluated: commands that only look at a model evaluate next to nothing, and the
import would take a third of their time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
else:
    class _NumPy:
        def __getattr__(self, name: str) -> Any:
            import numpy
            value = getattr(numpy, name)
            setattr(self, name, value)          # the next use does not come here
            return value

    np = _NumPy()

__all__ = ["np"]
