"""Checkpoints: a safetensors file each, with the weights, the optimiser's state and all else that training depends on.

    weights/PATH, optimizer/PATH        as of now
    callback/NUMBER/NAME/PATH           weights that a callback keeps, such as the best so far

The rest (position, settings, history, callbacks' numbers) is JSON in the header's metadata; JSON keeps every double
exactly.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, WeightsError, listing
from .history import History
from .records import dataclass
from .train import Position, Progress
from .weights import IN_CHECKPOINT, Layout, Weights, read_tensors, write_atomically

FORMAT = "netc checkpoint 1"
PROGRAM = "program"                     # the setting that tells one training step from another
NAME = re.compile(r"epoch-(\d+)(?:-batch-(\d+))?\.safetensors")


@dataclass
class Run:
    """What a run of ``fit`` is: ``settings`` must be the same for it to be resumed."""

    model: str
    settings: Mapping[str, Any]
    callbacks: Sequence[Any] = ()


@dataclass
class Saved:
    """What a checkpoint holds."""

    path: Path
    weights: Weights
    optimizer: dict[str, np.ndarray]
    steps: int
    position: Position
    history: History
    callbacks: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


def name_of(position: Position) -> str:
    """The file of a position: ``epoch-0003`` when three epochs are done, ``epoch-0003-batch-000100`` in the next
    one."""
    batch = f"-batch-{position.batch:06d}" if position.batch else ""
    return f"epoch-{position.epoch - 1:04d}{batch}.safetensors"


def files(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints of a folder, the oldest first; none where there is no such folder."""
    found = []
    for path in Path(folder).glob("epoch-*.safetensors"):
        match = NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2] or 0), path))
    return [path for *_, path in sorted(found)]


def save(path: Path, run: Run, told: Progress) -> None:
    """Write a checkpoint, atomically."""
    from safetensors.numpy import save as encode
    trainer = told.trainer
    tensors = {IN_CHECKPOINT + name: value for name, value in trainer.weights.items()}
    tensors |= {f"optimizer/{name}": value for name, value in trainer.optimizer.items()}
    callbacks = []
    for number, callback in enumerate(run.callbacks):
        numbers = {}
        for name, value in _state(callback).items():
            if isinstance(value, Weights):
                tensors |= {f"callback/{number}/{name}/{path_}": array for path_, array in value.items()}
                value = {"weights": True}
            numbers[name] = value
        callbacks.append([type(callback).__name__, numbers])
    history = told.history
    rest = {"format": FORMAT, "model": run.model, "settings": dict(run.settings), "steps": trainer.steps,
            "position": asdict(told.position), "epochs": history.epochs, "seconds": history.seconds,
            "losses": history.losses, "callbacks": callbacks}
    arrays = {name: np.array(value, order="C") for name, value in tensors.items()}
    write_atomically(path, encode(arrays, metadata={"netc": json.dumps(rest)}))


def _state(callback: Any) -> dict[str, Any]:
    return callback.state() if hasattr(callback, "state") and hasattr(callback, "restore") else {}


def find(path: str | os.PathLike) -> Path | None:
    """The file itself, or the newest checkpoint of a folder; None where the folder has none or is not there."""
    if Path(path).is_file():
        return Path(path)
    found = files(path)
    return found[-1] if found else None


def load(path: Path, layout: Layout, run: Run) -> Saved:
    """Read a checkpoint of this run.  Raises WeightsError where it is none or another model's, InputError where the
    settings differ."""
    tensors, metadata = read_tensors(path)
    try:
        rest = json.loads(metadata["netc"])
        if rest["format"] != FORMAT:
            raise ValueError
    except (KeyError, ValueError, TypeError):
        raise WeightsError(f"{path} is not a checkpoint of netc") from None
    _compare(path, rest, run)
    weights = Weights.of(layout, _below(tensors, IN_CHECKPOINT))
    saved = Saved(path, weights, _below(tensors, "optimizer/"), rest["steps"], Position(**rest["position"]),
                  History(rest["epochs"], rest["seconds"], losses=tuple(rest["losses"])))
    for number, (kind, numbers) in enumerate(rest["callbacks"]):
        for name, value in numbers.items():
            if value == {"weights": True}:
                numbers[name] = Weights.of(layout, _below(tensors, f"callback/{number}/{name}/"))
        saved.callbacks.append((kind, numbers))
    return saved


def _below(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _compare(path: Path, rest: Mapping[str, Any], run: Run) -> None:
    if rest["model"] != run.model:
        raise InputError(f"{path} is a checkpoint of the model `{rest['model']}`, not of `{run.model}`")
    changed = ["the model, its losses or its optimiser has changed" if name == PROGRAM else
               f"`{name}` was {rest['settings'].get(name)!r} and is {value!r}" for name, value in run.settings.items()
               if rest["settings"].get(name) != value]
    if changed:
        raise InputError(f"{path} was made with other settings, so that the same steps cannot follow: "
                         f"{'; '.join(changed)}; to go on with these, start anew from its weights")


def hand_back(saved: Saved, callbacks: Sequence[Any]) -> None:
    """Give each callback its state; callbacks are told apart by their class and order.  Raises InputError where one
    that kept a state is missing."""
    waiting = [callback for callback in callbacks if hasattr(callback, "restore")]
    for kind, numbers in saved.callbacks:
        if not numbers:
            continue
        callback = next((each for each in waiting if type(each).__name__ == kind), None)
        if callback is None:
            raise InputError(f"{saved.path} was made with a callback of class {kind}, which is not among "
                             f"{listing(type(each).__name__ for each in callbacks)}")
        waiting.remove(callback)
        callback.restore(numbers)
