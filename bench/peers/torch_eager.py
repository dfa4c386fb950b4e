"""torch, eager."""

from .torch_peer import Inference, Training  # noqa: F401
