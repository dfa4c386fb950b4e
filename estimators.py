"""scikit-learn's estimators over a ``.net`` model: ``netc.Classifier`` and ``netc.Regressor`` (extra ``sklearn``).

They fit into pipelines, cross-validation and searches.  The model is text or a file with a ``train`` block of one input
and one target; what it leaves open as settings called ``features``, ``classes`` or ``outputs`` is taken from the data.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .compiler.source import read_source
from .function import Function, check_target
from .inputs import convert_settings
from .runtime.errors import InputError, ModelError

PREDICTED_AT_ONCE = 4096            # rows; the values in between need memory

PERCEPTRON = """net 1

model Perceptron(features: int, classes: int, hidden = (100,))(x: f32[N, features]) -> (logits: f32[N, classes]):
    h = x
    for width in hidden:
        h = Dense(width, relu)(h)
    logits = Dense(classes)(h)

train Perceptron:
    input label: i32[N]
    loss   cross_entropy = mean(sparse_categorical_crossentropy(logits, label, from_logits = true))
    metric accuracy      = mean(sparse_categorical_accuracy(logits, label))
    optimizer = adam()
"""

CURVE = """net 1

model Curve(features: int, outputs: int, hidden = (100,))(x: f32[N, features]) -> (value: f32[N, outputs]):
    h = x
    for width in hidden:
        h = Dense(width, relu)(h)
    value = Dense(outputs)(h)

train Curve:
    input target: f32[N, outputs]
    loss squared_error = mean(mean_squared_error(value, target))
    optimizer = adam()
"""


@lru_cache(maxsize=64)
def _compiled(text: str, name: str, model: str | None, settings: str, optimizer: str | None, lr, precision: str,
              target: str) -> Function:
    """One function for all estimators of equal settings: a search or a cross-validation compiles once.  Settings are
    JSON, which tells 1, 1.0 and true apart."""
    from .compiler.kept_models import elaborate
    elaborated = elaborate(text, name, model=model, precision=precision, optimizer=optimizer, lr=lr,
                           settings=convert_settings(json.loads(settings)))
    return Function(elaborated, None, target, text)


class _Network(BaseEstimator):
    """What classifier and regressor share: the model, its weights, training."""

    _default: str                   # the model where no source is given

    def __init__(self, source: str | os.PathLike | None = None, *, model: str | None = None,
                 settings: Mapping[str, Any] | None = None, optimizer: str | None = None, lr: str | float | None = None,
                 epochs: int = 100, batch_size: int = 32, validation=None, shuffle: bool = True, seed: int = 0,
                 callbacks=None, precision: str = "f32", target: str = "cpu"):
        self.source = source
        self.model = model
        self.settings = settings
        self.optimizer = optimizer
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation = validation
        self.shuffle = shuffle
        self.seed = seed
        self.callbacks = callbacks
        self.precision = precision
        self.target = target

    # --- the model

    @property
    def function_(self) -> Function:
        """The compiled model: ``function_.summary()``, ``function_(weights_, x)``."""
        check_is_fitted(self, "weights_")
        return _compiled(*self._recipe)

    def _compile(self, measured: Mapping[str, int]) -> Function:
        """Compile for data of these sizes; the text is kept, so that a fitted estimator outlives its file."""
        from .compiler.build import declared_settings
        text, name = read_source(self._default if self.source is None else self.source)
        check_target(self.target, self.precision)
        given = convert_settings({} if self.settings is None else self.settings)
        open_ = [key for key in declared_settings(text, name, self.model) if key in measured]
        settings = {key: measured[key] for key in open_} | given
        self._recipe = (text, name, self.model, json.dumps(settings, sort_keys=True), self.optimizer, self.lr,
                        self.precision, self.target)
        function = _compiled(*self._recipe)
        for kind, types in (("input", function.inputs), ("target", function.targets)):
            if len(types) != 1:
                raise ModelError(f"an estimator's model has one {kind}, {function.model.name} has {len(types)}: "
                                 f"{', '.join(types) or 'none'}; use netc.compile and fit")
        return function

    # --- training

    def _start(self, X, targets: int) -> None:
        """Fresh weights for data like X."""
        count = "classes" if isinstance(self, ClassifierMixin) else "outputs"
        function = self._compile({"features": X.shape[1], count: targets})
        self.weights_ = function.init(self.seed)
        self.n_iter_ = 0
        self._optimizer = None

    def _train(self, X, y: np.ndarray, epochs: int) -> None:
        """Epochs more, from where the weights and the optimiser stand; shuffled otherwise than the epochs before."""
        (x_name, x_type), = self.function_.inputs.items()
        (y_name, y_type), = self.function_.targets.items()

        def prepared(X, y):
            return {x_name: _rows(X, x_name, x_type), y_name: self._encoded(y, y_type)}
        validation = self.validation
        if isinstance(validation, (tuple, list)) and len(validation) == 2:
            validation = prepared(validate_data(self, validation[0], reset=False, **_CHECKS), np.asarray(validation[1]))
        self.weights_, self.history_ = self.function_.fit(
            self.weights_, prepared(X, y), epochs=epochs, batch_size=min(self.batch_size, len(X)),
            validation=validation, seed=self.seed + self.n_iter_, shuffle=self.shuffle, callbacks=self.callbacks or (),
            optimizer=self._optimizer)
        self._optimizer = self.history_.optimizer
        self.n_iter_ += len(self.history_.epochs)

    def _encoded(self, y: np.ndarray, type_) -> np.ndarray:
        raise NotImplementedError

    def _outputs(self, X) -> np.ndarray:
        """The model's first output for every row, as float64."""
        function = self.function_
        X = validate_data(self, X, reset=False, **_CHECKS)
        (name, type_), = function.inputs.items()
        rows = _rows(X, name, type_)
        seed = {"seed": self.seed} if function.program("predict").uses_seed else {}
        parts = []
        for start in range(0, len(rows), PREDICTED_AT_ONCE):
            result = function(self.weights_, rows[start:start + PREDICTED_AT_ONCE], **seed)
            parts.append(result if len(function.outputs) == 1 else result[0])
        return np.concatenate(parts).astype(np.float64)


_CHECKS = {"dtype": "numeric", "allow_nd": True}


def _rows(X: np.ndarray, name: str, type_) -> np.ndarray:
    """X as the input wants it: rows folded into images or the like, whole numbers as integers."""
    if X.ndim == 2 and type_.rank != 2 and all(isinstance(size, int) for size in type_.shape[1:]):
        if math.prod(type_.shape[1:]) != X.shape[1]:
            raise InputError(f"X has {X.shape[1]} features, which do not fold into `{name}`: {type_}")
        X = X.reshape(len(X), *type_.shape[1:])
    if type_.dtype.kind == "int" and X.dtype.kind == "f" and (np.floor(X) == X).all():
        X = X.astype(np.int64)
    return X


def _labels(y: np.ndarray) -> np.ndarray:
    """The different labels, in order.  Raises ValueError where they have none, or are no labels."""
    try:
        found = np.unique(y)
    except TypeError:
        kinds = sorted({type(label).__name__ for label in y.tolist()})
        raise ValueError(f"the labels are of types that have no common order: {', '.join(kinds)}; make them all "
                         "strings, or all numbers") from None
    check_classification_targets(y)
    return found


class Classifier(ClassifierMixin, _Network):
    """A classifier whose network is a ``.net`` model.  ``X`` is [samples, features], ``y`` [samples].

    - ``source``: path or text of the model; without one, a perceptron with the setting ``hidden = (100,)``.  Its
      settings ``features`` and ``classes``, where it has them, are the data's.  The target may be class numbers
      (``i32[N]``), rows with one 1 (``f32[N, classes]``), or 0 and 1 (``f32[N, 1]``, ``f32[N]``) for two classes.
    - ``model``, ``optimizer``, ``lr``, ``precision``, ``target``: as for ``netc.compile``.
    - ``settings``: values for the model's settings, by name.
    - ``epochs``, ``batch_size``, ``validation``, ``shuffle``, ``callbacks``: as for ``Function.fit``; ``validation``
      may be (X, y) as well, as ``fit`` takes them.
    - ``seed``: of the initial weights, the shuffling and whatever is random in the model.
    - ``from_logits``: whether the model's first output holds logits rather than probabilities; by default, whether it
      is called ``logits``.

    Once fitted it has ``classes_``, ``n_features_in_``, ``n_iter_`` (epochs trained), ``weights_`` (netc.Weights),
    ``history_`` (of the last fit) and ``function_`` (netc.Function).
    """

    _default = PERCEPTRON

    def __init__(self, source=None, *, model=None, settings=None, optimizer=None, lr=None, epochs=100, batch_size=32,
                 validation=None, shuffle=True, seed=0, callbacks=None, precision="f32", target="cpu",
                 from_logits=None):
        super().__init__(source, model=model, settings=settings, optimizer=optimizer, lr=lr, epochs=epochs,
                         batch_size=batch_size, validation=validation, shuffle=shuffle, seed=seed, callbacks=callbacks,
                         precision=precision, target=target)
        self.from_logits = from_logits

    def fit(self, X, y) -> Classifier:
        """Train from fresh weights.  X: [samples, features], or as the model's input; y: [samples], of any labels."""
        X, y = validate_data(self, X, y, **_CHECKS)
        self.classes_ = _labels(y)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs at least two classes, y has one class: {self.classes_.tolist()[0]!r}")
        self._start(X, len(self.classes_))
        self._train(X, y, self.epochs)
        return self

    def partial_fit(self, X, y, classes=None) -> Classifier:
        """One epoch over these samples, on top of what was trained.  ``classes``: all labels, in the first call."""
        first = not hasattr(self, "weights_")
        X, y = validate_data(self, X, y, reset=first, **_CHECKS)
        _labels(y)
        if first:
            if classes is None:
                raise ValueError("the first call of partial_fit needs `classes`: all labels that will come")
            self.classes_ = _labels(np.asarray(classes))
            self._start(X, len(self.classes_))
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"`classes` are not those of the first call of partial_fit: {self.classes_}")
        self._train(X, y, 1)
        return self

    def predict_proba(self, X) -> np.ndarray:
        """The probability of every class: [samples, classes], in the order of ``classes_``."""
        values = self._outputs(X)
        if values.ndim > 2 or values.ndim == 2 and values.shape[1] not in (1, len(self.classes_)):
            raise ModelError(f"the model's first output has the shape {list(values.shape)}, expected one number for "
                             f"each of {len(self.classes_)} classes")
        name = next(iter(self.function_.outputs))
        logits = name == "logits" if self.from_logits is None else self.from_logits
        if values.ndim == 1 or values.shape[1] == 1:
            values = values.reshape(-1)
            positive = 1 / (1 + np.exp(-values)) if logits else values
            values = np.stack([1 - positive, positive], axis=1)
        elif logits:
            values = np.exp(values - values.max(axis=1, keepdims=True))
            values /= values.sum(axis=1, keepdims=True)
        wrong = (values < -1e-3).any(axis=1) | (np.abs(values.sum(axis=1) - 1) > 1e-3)
        if wrong.any():
            raise ModelError(f"the output `{name}` holds no probabilities (row {int(np.argmax(wrong))} adds up to "
                             f"{values[np.argmax(wrong)].sum():g}): call it `logits`, or set from_logits=True")
        return values

    def predict(self, X) -> np.ndarray:
        """The likeliest label of each row."""
        likeliest = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[likeliest]

    def _encoded(self, y: np.ndarray, type_) -> np.ndarray:
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y holds {unknown.tolist()[0]!r}, which is none of the classes {self.classes_}")
        numbers = np.searchsorted(self.classes_, y)
        if type_.dtype.kind == "int":
            return numbers.reshape(-1, 1) if type_.rank == 2 else numbers
        if type_.rank == 2 and type_.shape[1] != 1:
            return np.eye(len(self.classes_))[numbers]
        if len(self.classes_) > 2:
            raise ModelError(f"the model's target {type_} tells two classes apart, y has {len(self.classes_)}")
        return numbers.reshape(-1, 1).astype(float) if type_.rank == 2 else numbers.astype(float)


class Regressor(RegressorMixin, _Network):
    """A regressor whose network is a ``.net`` model.  ``X`` is [samples, features], ``y`` [samples] or [samples,
    outputs].

    ``source``: path or text of the model; without one, a perceptron with the setting ``hidden = (100,)``.  Its settings
    ``features`` and ``outputs``, where it has them, are the data's.  The target is ``f32[N, outputs]`` or ``f32[N]``,
    and the first output has its shape.  The other parameters are those of Classifier.

    Once fitted it has ``n_features_in_``, ``n_outputs_``, ``n_iter_`` (epochs trained), ``weights_`` (netc.Weights),
    ``history_`` (of the last fit) and ``function_`` (netc.Function).
    """

    _default = CURVE

    def fit(self, X, y) -> Regressor:
        """Train from fresh weights.  X: [samples, features], or as the model's input; y: [samples] or
        [samples, outputs].
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, **_CHECKS)
        self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
        self._flat = y.ndim == 1
        self._start(X, self.n_outputs_)
        self._train(X, y, self.epochs)
        return self

    def partial_fit(self, X, y) -> Regressor:
        """One epoch over these samples, on top of what was trained."""
        first = not hasattr(self, "weights_")
        X, y = validate_data(self, X, y, reset=first, multi_output=True, y_numeric=True, **_CHECKS)
        if first:
            self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
            self._flat = y.ndim == 1
            self._start(X, self.n_outputs_)
        self._train(X, y, 1)
        return self

    def predict(self, X) -> np.ndarray:
        """The model's first output, of y's shape: [samples] or [samples, outputs]."""
        values = self._outputs(X)
        return values.reshape(len(values)) if self._flat and values.size == len(values) else values

    def _encoded(self, y: np.ndarray, type_) -> np.ndarray:
        y = np.asarray(y, np.float64)
        if type_.rank == 2 and y.ndim == 1:
            return y.reshape(-1, 1)
        return y.reshape(-1) if type_.rank == 1 and y.size == len(y) else y

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
