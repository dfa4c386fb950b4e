"""torch.compile."""

from functools import partial

from . import torch_peer

Inference = partial(torch_peer.Inference, compiled=True)
Training = partial(torch_peer.Training, compiled=True)
