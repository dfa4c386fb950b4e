"""The Python API: ``compile`` gives a ``Function``, a model as pure functions of weights and inputs."""

from __future__ import annotations

import os
import re
from collections import namedtuple
from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiler import programs
from .compiler.collector import paused
from .compiler.interpret import interpret
from .compiler.ir import Graph
from .compiler.model import Model, Variable
from .compiler.programs import GRADIENT, LOSS, SEED, WEIGHTS, Program, new_state, optimizer_slot
from .compiler.source import read_source
from .compiler.types import TensorType, evaluate, known_nonnegative
from .inputs import Signature, convert_seed, convert_settings, require_finite, step_seed
from .runtime import weights as storage
from .runtime.arrays import HostMemory, physical_memory
from .runtime.errors import InputError, ModelError, WeightsError, listing
from .runtime.locks import own_lock
from .runtime.weights import LARGEST, Weights
from .shortcuts import Shortcuts

if TYPE_CHECKING:
    from .runtime.train import Dataset

TARGETS = ("cpu", "numba", "cuda", "numpy")
NATIVE = ("cpu", "numba")              # machine code in this process
PRECISIONS = ("f32", "f64")
PROGRAMS = ("predict", "evaluate", "gradient", "update", "step")


def compile(source: str | os.PathLike, model: str | None = None, outputs: Iterable[str] | None = None,
            target: str = "cpu", precision: str = "f32", settings: Mapping[str, Any] | None = None,
            optimizer: str | None = None, lr: str | float | None = None) -> Function:
    """Compile a ``.net`` file, or source text (a string with a line break in it).

    ``model`` names the model; without it, the one that is trained, or the last one.  ``outputs`` names the values to
    give back, inner ones by their path (``features.conv2d_1``).  ``target``: "cpu"; "numba", the same with kernels
    that Numba compiles, the reference; "cuda" for an NVIDIA GPU; or "numpy" for the slow oracle.
    ``precision``: "f32", or "f64" to compute in double precision throughout.  ``settings``: values for the model's own
    settings, by name; a text is an expression of the language: "tanh", "leaky_relu(alpha = 0.1)".  ``optimizer`` and
    ``lr`` replace those of the train block, by such expressions too: "sgd(momentum = 0.9)",
    "cosine_decay(initial = 1e-3, decay_steps = 1_000)", or a number.

    Raises CompileError with every fault found in the text, ModelError for an unknown output, for a setting that is no
    compile-time value, or where Numba is missing, DeviceError where the GPU or what it needs is missing, OSError.
    """
    check_target(target, precision)
    if isinstance(outputs, str):
        raise ModelError(f"`outputs` is a list of paths: [{outputs!r}]")
    given = convert_settings(settings or {})
    from .compiler.kept_models import elaborate
    text, name = read_source(source)

    def prepare():
        if target == "cpu":
            _prepare(np.dtype(np.float32 if precision == "f32" else np.float64))
    with paused():
        found = elaborate(text, name, prepare, model=model, precision=precision, settings=given,
                          optimizer=optimizer, lr=lr)
        return Function(found, outputs, target, text)


def check_target(target: str, precision: str) -> None:
    """Raise ModelError where there is no such target or precision, or Numba is missing, DeviceError where the GPU
    is."""
    if target not in TARGETS:
        raise ModelError(f"there is no target {target!r}: the targets are {listing(TARGETS)}")
    if precision not in PRECISIONS:
        raise ModelError(f"there is no precision {precision!r}: the precisions are {listing(PRECISIONS)}")
    if target == "cuda":
        from .runtime.cuda.door import require
        require()
    if target == "numba":
        _require_numba()


def _require_numba() -> None:
    """Raise ModelError unless Numba can be imported."""
    try:
        from .runtime import numba_backend  # noqa: F401
    except (ImportError, AttributeError, OSError) as error:     # it is missing; or it does not fit what is beside it
        raise ModelError(f"the target \"numba\" needs the package numba (pip install 'numba>=0.61'), which cannot be "
                         f"imported: {error}. The target \"cpu\" gives the same results without it") from None


def _prepare(dtype: np.dtype) -> None:
    """Start what helps to compile kernels, before it is known which: there is something new."""
    from .runtime import workers
    workers.prepare(f"f{8 * dtype.itemsize}")


class Function:
    """A compiled model.  Every method is pure: weights go in and new ones come out, nothing is kept.

    ``fn.inputs``, ``fn.targets``, ``fn.outputs``, ``fn.parameters``, ``fn.states`` map names to types with ``.dtype``
    and ``.shape``; ``fn.variables`` are parameters and states in the order of their making.  Programs (prediction,
    gradient, training step) are compiled at their first use; a new batch size compiles nothing.  ``fn.source`` is the
    model's text, ``fn.emit(stage)`` what became of it.
    """

    def __init__(self, model: Model, outputs: Iterable[str] | None = None, target: str = "cpu", source: str = ""):
        self._lock: Any                     # own_lock gives it
        self.model = model
        self.target = target
        self._is_native = target in NATIVE
        self.source = source
        self.layout = programs.weights_layout(model)
        self.inputs: dict[str, TensorType] = {leaf.attrs["name"]: leaf.type for leaf in model.inputs}
        self.targets: dict[str, TensorType] = {leaf.attrs["name"]: leaf.type for leaf in model.targets}
        self.variables: dict[str, TensorType] = {variable.path: variable.type for variable in model.variables}
        self.parameters: dict[str, TensorType] = {variable.path: variable.type for variable in model.parameters}
        self.states: dict[str, TensorType] = {variable.path: variable.type for variable in model.states}
        self._apart = [entry.path for entry in self.layout.apart]
        self._paths = list(outputs) if outputs is not None else None
        chosen = programs.named_outputs(model, self._paths)
        self.outputs: dict[str, TensorType] = {name: value.type for name, value in chosen.items()}
        self._result = _result_type(model.name, list(self.outputs))
        self._compiled: dict[str, Compiled] = {}
        self._shortcuts = Shortcuts(self._predict, list(self.outputs), self._result, first=[WEIGHTS],
                                    is_native=self._is_native)
        own_lock(self)

    # --- weights

    def init(self, seed: int = 0) -> Weights:
        """Fresh weights from the model's initialisers; equal seeds give equal weights.  ``seed``: any 64-bit
        integer.  Raises WeightsError where they do not fit into this machine's memory."""
        needed, present = self.layout.size * np.dtype(self.layout.dtype).itemsize, physical_memory()
        if needed > present:            # told before the system kills the process for it
            raise WeightsError(f"the weights of {self.model.name} take {needed / 2 ** 30:.1f} GiB, this machine has "
                               f"{present / 2 ** 30:.1f} GiB of memory")
        return Weights.of(self.layout, {variable.path: _initial(variable, seed) for variable in self.model.variables})

    def weights_from(self, values, order: Iterable[str] | None = None) -> Weights:
        """Weights from elsewhere: a list of arrays, one a variable, as Keras' ``get_weights()`` gives them; a mapping
        of every path to an array; or one flat vector (an array of one dimension), laid out as ``Weights.flat``.

        A list is in the order of ``fn.variables``, that in which the layers are made.  A Keras model whose branches
        come in another order needs ``order``: the paths of the layers as the list has them; a flat vector with an
        ``order`` is that list, end to end.  Raises WeightsError where the number of arrays or a shape does not fit.
        """
        if isinstance(values, Mapping):
            return Weights.of(self.layout, values)
        if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype != object:
            if order is None:
                return Weights(self.layout, values, self.init().apart if self._apart else None)
            return Weights.from_vector(self.layout, values, order)
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise WeightsError(f"the weights are {type(values).__name__}, expected a list of arrays, one a variable")
        return Weights.from_arrays(self.layout, values, order)

    def init_optimizer(self, seed: int = 0) -> dict[str, np.ndarray]:
        """The optimiser's fresh state, by path: what ``step`` takes first."""
        sizes = programs.optimizer_sizes(self.model)
        return {variable.path: _initial(variable, seed, sizes) for variable in programs.optimizer_of(self.model).states}

    def save(self, weights: Weights, path: str | os.PathLike) -> None:
        """Write weights as safetensors, atomically: the file is the old one or the new one, never a part.  Raises
        WeightsError for weights of another model, OSError where the file cannot be written."""
        storage.save(self._own(weights), path, self.model.name)

    def load(self, path: str | os.PathLike) -> Weights:
        """Read weights, a safetensors file; names, shapes and dtypes are checked against the model before anything is
        allocated.  Raises WeightsError with all that does not fit, OSError."""
        return storage.load(self.layout, path)

    @property
    def memory(self):
        """Where arrays that outlive a call lie, as a Trainer's do."""
        if self.target == "cuda":
            from .runtime.cuda.arrays import DeviceMemory
            return DeviceMemory()
        return HostMemory()

    # --- evaluation

    def __call__(self, weights: Weights, /, *args, seed: int | None = None, **named):
        """The outputs: one array, or a named tuple of several.

        Inputs come by name, in order, or as one mapping.  ``seed`` is needed where the outputs are random.  Raises
        InputError or WeightsError.
        """
        if seed is None and type(weights) is Weights and weights.layout is self.layout and not self._apart:
            return self._shortcuts.call(weights.flat, *args, **named)
        return self._shaped(self._predict(self._slots(weights), args, named, seed)[2])

    def _predict(self, slots: Mapping[str, np.ndarray], args: tuple, named: Mapping[str, Any],
                 seed: int | None = None) -> tuple:
        """What ran, the inputs and the outputs, both by name."""
        return self._evaluate(self.program("predict"), slots, args, named, seed)

    def _evaluate(self, program: Compiled, slots: Mapping[str, np.ndarray], args: tuple, named: Mapping[str, Any],
                  seed: int | None) -> tuple:
        values = program.signature.collect(args, named)
        return program, values, program.evaluate(slots, values, self._seed(program, seed))

    def _shaped(self, results: Mapping[str, np.ndarray]):
        """The outputs as a caller gets them."""
        outputs = [results[name] for name in self.outputs]
        return outputs[0] if self._result is None else self._result(*outputs)

    def bind(self, weights: Weights):
        """The function with its weights given: ``predict = fn.bind(w); y = predict(x)``.  The same results as ``fn(w,
        x)``, faster where one set of weights meets many inputs: they are arranged for the kernels once.  That takes
        memory of its own: dense kernels once more, and where a dense layer follows an embedding, at most 64 MiB for
        what the layer makes of each row of the table.  Raises WeightsError."""
        from .bound import Bound
        return Bound(self, weights)

    def value_and_grad(self, weights: Weights, /, *args, seed: int | None = None, **named):
        """(loss, its gradient as Weights of the same layout) in training mode; states have gradient zero.

        The loss, a NumPy scalar, is what training minimises: the sum of all losses and penalties.  Inputs and targets
        are given as in a call.  Raises InputError, WeightsError, and ModelError where there is no ``train`` block.
        """
        results, gradient = self._differentiate(weights, args, named, seed)
        return results[LOSS][()], gradient

    def losses_and_grad(self, weights: Weights, /, *args, seed: int | None = None, **named):
        """What a training step of your own needs: (losses by name, gradient as Weights, new values of the states by
        path).

        "loss" is what training minimises and what the gradient belongs to.  ``update`` makes the step, and
        ``weights.replace(states)`` takes over the states where the model has any.
        """
        results, gradient = self._differentiate(weights, args, named, seed)
        states = {path: results[new_state(path)] for path in self.states}
        return self.program("gradient").report(results), gradient, states

    def _differentiate(self, weights: Weights, args: tuple, named: Mapping[str, Any], seed: int | None):
        """The gradient program's results by name, and the gradient as Weights."""
        if seed is None and type(weights) is Weights and weights.layout is self.layout and not self.states:
            return self._gradient_shortcuts.call(weights.flat, *args, **named)
        flat = np.zeros(self.layout.size, self.layout.dtype)
        out = {GRADIENT: flat[:self.layout.trainable_size]}
        results = self._run_gradient(self._slots(weights), args, named, seed, out)[2]
        return results, Weights(self.layout, flat, copy=False)

    @cached_property
    def _gradient_shortcuts(self) -> Shortcuts:
        """For weights that are all parameters."""
        names = list(self.program("gradient").program.graph.outputs)
        return Shortcuts(self._run_gradient, names, partial(_differentiated, self.layout, names), first=[WEIGHTS],
                         is_native=self._is_native)

    def _run_gradient(self, slots: Mapping[str, np.ndarray], args: tuple, named: Mapping[str, Any],
                      seed: int | None = None, out: Mapping[str, np.ndarray] | None = None) -> tuple:
        """What ran, the inputs and the results, both by name."""
        program = self.program("gradient")
        values = program.signature.collect(args, named)
        return program, values, program.run(slots, values, self._seed(program, seed), out)

    def update(self, weights: Weights, optimizer: Mapping[str, np.ndarray],
               gradient: Weights) -> tuple[Weights, dict[str, np.ndarray]]:
        """The optimiser's step by itself, pure: (new weights, new optimiser state).  States of the model stay as they
        are.  Raises WeightsError, and ModelError where the model has no optimiser."""
        program = self.program("update")
        slots = self._renewable(program, weights, optimizer)
        slots[GRADIENT] = self._own(gradient).flat[:self.layout.trainable_size]
        results = program.run(slots, {}, None)
        return (Weights(self.layout, results[WEIGHTS], weights.apart, copy=False),
                {path: results[slot] for path, (slot, _, _) in self._optimizer_states.items()})

    def step(self, weights: Weights, optimizer: Mapping[str, np.ndarray], batch: Mapping[str, Any],
             seed: int | None = None) -> tuple[Weights, dict[str, np.ndarray], dict[str, float]]:
        """One step of training, pure: (new weights, new optimiser state, losses by name as floats).  Where the model is
        random, ``seed`` is else that of the first step of a Trainer.  Raises InputError, WeightsError, ModelError."""
        program = self.program("step")
        values = program.signature.collect((batch,), {})
        key = convert_seed(step_seed(0, 0) if seed is None else seed) if program.uses_seed else None
        results = program.run(self._renewable(program, weights, optimizer), values, key)
        apart = {entry.path: results[f"state/{entry.path}"] for entry in self.layout.apart}
        return (Weights(self.layout, results[WEIGHTS], apart, copy=False),
                {path: results[slot] for path, (slot, _, _) in self._optimizer_states.items()},
                program.report(results))

    def _renewable(self, program: Compiled, weights: Weights, optimizer: Mapping[str, np.ndarray]) -> dict:
        """Weights and the optimiser's state by slot, copies where the program replaces them."""
        from .runtime.addresses import aligned_copy
        in_place = program.executable.in_place
        slots = self._slots(weights) | self._optimizer_slots(optimizer)
        return {slot: aligned_copy(array) if slot in in_place else np.asarray(array, order="C")
                for slot, array in slots.items()}

    def trainer(self, weights: Weights, optimizer: Mapping[str, np.ndarray] | None = None, *, seed: int = 0,
                metrics: bool = False):
        """A stateful convenience: ``step = fn.trainer(w); losses = step(**batch); step.weights``."""
        from .trainer import Trainer
        return Trainer(self, weights, optimizer, seed=seed, metrics=metrics)

    def fit(self, weights: Weights, data, *, epochs: int = 1, batch_size: int = 32, validation=None, seed: int = 0,
            shuffle: bool = True, callbacks: Iterable = (), optimizer: Mapping[str, np.ndarray] | None = None,
            resume: str | os.PathLike | None = None, check_finite: bool = False, progress: bool = False,
            allow_nan: bool = False):
        """Train on data: (new weights, History).  ``weights`` stay as they are.

        ``data``: a mapping of input and target names to arrays, a tuple in the order of ``inputs`` and ``targets``, or
        the path of a file or folder of arrays, as ``netc train --data`` takes it.
        ``validation``: such data, or the fraction of the samples to hold out, chosen by ``seed``.  The last batch of
        an epoch may be smaller.  Ctrl-C stops after the current batch and returns what was trained.
        ``callbacks``: ``netc.EarlyStopping``, ``netc.Checkpoint``, ``netc.Log``, or yours: a function called with a
        Progress after each epoch, or an object with ``on_start``, ``on_batch``, ``on_epoch``, ``on_end``.
        ``resume``: a checkpoint, or a folder of which the newest is taken: training goes on from there, to the same
        bits as if it had never stopped; where the folder has none yet, it begins.  ``optimizer``: ``history.optimizer``
        of an earlier run, to go on from its state.  ``check_finite``: raise NotFiniteError at the first loss that is
        NaN or infinite, saying where that comes from.  ``progress``: show it.  ``allow_nan``: take data with NaN or
        infinities, which are else refused with the first row.
        """
        from .fitting import fit
        return fit(self, weights, data, epochs, batch_size, validation, seed, shuffle, callbacks, optimizer, resume,
                   check_finite, progress, allow_nan)

    def evaluate(self, weights: Weights, data, *, batch_size: int = 256, seed: int = 0,
                 allow_nan: bool = False) -> dict[str, float]:
        """Losses and metrics over all samples of the data, in inference mode.  ``allow_nan`` as in ``fit``."""
        from .runtime.train import check_count
        check_count("batch_size", batch_size)
        return self._measure(self._slots(weights), self.dataset(data, allow_nan), batch_size, seed)

    def dataset(self, data, allow_nan: bool = False) -> Dataset:
        """Data checked and converted whole, so that a wrong label or a NaN is found before training starts."""
        from .runtime.train import Dataset
        signature = self.program("evaluate").signature
        if isinstance(data, (str, os.PathLike)):
            from .runtime.data import load_arrays
            data = load_arrays(data, {**self.inputs, **self.targets})
        args = tuple(data) if isinstance(data, (tuple, list)) else (data,)
        if len(args) == 1 and not isinstance(args[0], Mapping):
            raise InputError(f"data is {type(args[0]).__name__}, expected a mapping of names to arrays, a tuple, or a "
                             f"path: {signature}")
        arrays, _ = signature.bind(signature.collect(args, {}))
        if not allow_nan:
            require_finite(arrays)
        return Dataset(arrays, signature.batched())

    def _measure(self, slots: Mapping[str, np.ndarray], data: Dataset, batch_size: int, seed: int):
        from .runtime.train import measure
        program = self.program("evaluate")
        key = convert_seed(seed) if program.uses_seed else None

        def evaluate_batch(**batch):
            return program.report(program.run(slots, batch, key))
        return measure(evaluate_batch, data, batch_size)

    # --- for a reader

    def trace(self, weights: Weights, /, *args, training: bool = False, seed: int | None = None, **named):
        """Every named inner value of one run, by path: a Trace.  ``fn.trace(w, x).check_finite()`` hunts NaN.

        With ``training``, the values of training mode, which takes targets too, then the losses (``loss NAME``, ``total
        loss``) and the gradients of their sum (``grad PATH``).  The program of it is compiled at the first trace.
        """
        from .tracing import trace
        return trace(self, weights, args, named, training, seed)

    def profile(self, program: str = "predict", data: Mapping[str, Any] | None = None, *, batch: int | None = None,
                sizes: Mapping[str, int] | None = None, weights: Weights | None = None, seed: int = 0):
        """Run a program with a clock between its steps: a Profile, whose ``str`` is a table of kernels.

        ``program``: "predict", "evaluate", "gradient" or "step".  ``data``: inputs and targets by name; without them,
        random ones, of ``batch`` samples (32) and symbolic ``sizes`` by name (16).  ``weights``: else fresh ones.
        Raises InputError, ModelError.
        """
        from .profiling import profile
        return profile(self, program, data, batch, sizes, weights, seed)

    def cost(self, program: str = "predict", data: Mapping[str, Any] | None = None, *, batch: int | None = None,
             sizes: Mapping[str, int] | None = None):
        """FLOPs, bytes and memory of one run of a program, counted from its kernels: a ProgramCost.  Arguments and
        errors as of ``profile``."""
        from .profiling import cost
        return cost(self, program, data, batch, sizes)

    def summary(self, depth: int | None = None, sizes: Mapping[str, int] | None = None):
        """The layers with their shapes, parameters, costs and kernels: ``str()`` of it is a table.

        ``depth`` opens so many levels of nested models (without it all but the prelude's layers); ``sizes`` gives
        values for symbols, such as {"N": 32}; without it costs are those of one sample.
        """
        from .compiler import kept

        def make():
            from .compiler.summary import summarize
            return summarize(self.model, depth, sizes)
        return kept.kept(self._key("summary", depth, sorted((sizes or {}).items())), make)

    def diff(self, before: Function, depth: int | None = None, sizes: Mapping[str, int] | None = None):
        """What changed from the model ``before`` to this one: totals, layers, weights; ``str()`` of it is a report.

        ``depth`` and ``sizes`` are those of ``summary``.  False where there is no difference.
        """
        from .compiler.difference import compare
        return compare(before.model, self.model, depth, sizes)

    def plot(self, view: str = "model", *, depth: int | None = None, unroll: bool = False, program: str = "predict",
             sizes: Mapping[str, int] | None = None):
        """A Picture: ``.save("model.svg")``, ``.write("dot")``; a notebook shows it.

        ``view``: "model", the layers as they were written, nested models as boxes; or "kernels", what a ``program``
        became, what was fused into each kernel, and the memory between them, for symbols of these ``sizes``.
        ``depth``: levels of nested models to open, without it as many as stay readable; ``unroll``: draw like models
        that follow one another one by one.
        Raises ModelError, InputError.
        """
        from .compiler.plot import Picture
        if view == "model":
            from .compiler.plot.model_view import model_view
            return Picture(model_view(self.model, depth, unroll))
        if view != "kernels":
            raise ModelError(f"there is no view {view!r}: there are `model`, `kernels`")
        from .compiler.plot.compiler_view import compiler_view
        lowered, known = self._sized(program, sizes)
        return Picture(compiler_view(self.model, lowered, program, known, depth))

    def emit(self, stage: str = "numba", program: str = "predict", sizes: Mapping[str, int] | None = None) -> str:
        """One stage of the compilation as text, as ``netc emit`` prints it.

        ``stage``: "ast", "graph", "simplified", "fused", "loops", "numba" (the source of every kernel), "llvm" or
        "asm" (what the target "cpu" links and runs).  ``program``: "predict", "evaluate", "gradient", "update" or
        "step".  ``sizes``: of symbols; the tiles of products are chosen by size.  Raises ModelError for another stage
        or program, InputError.
        """
        from .compiler.stages import STAGES, format_stage, format_tree
        if stage not in STAGES:
            raise ModelError(f"there is no stage {stage!r}: the stages are {listing(STAGES)}")
        if stage == "ast":
            from .compiler.syntax import parse
            return format_tree(parse(self.source))
        lowered, known = self._sized(program, sizes)
        return format_stage(lowered, stage, known)

    def _sized(self, program: str, sizes: Mapping[str, int] | None) -> tuple[Program, dict[str, int]]:
        """A program by name as a graph, and a size for each of its symbols."""
        from .profiling import usual_sizes
        if program not in PROGRAMS:
            raise ModelError(f"there is no program {program!r}: the programs are {listing(PROGRAMS)}")
        lowered = self.lower(program)
        return lowered, usual_sizes(Signature(lowered.inputs), None, sizes or {})

    def explain(self):
        """What was compiled for the programs that have been needed so far, what came from the cache, and why.

        ``str()`` of it is a text; ``.compiled`` is the number of kernels that were compiled, ``[program]`` has the
        details.
        """
        from .runtime import cache
        from .runtime.explanation import Explanation, ProgramExplanation
        found = [(name, compiled, compiled.executable) for name, compiled in self._compiled.items()
                 if self.target != "numpy"]
        return Explanation(self.model.name, self.model.is_kept, tuple(
            ProgramExplanation(name, compiled.is_kept, len(executable.steps), executable.pieces,
                               tuple(executable.sizes), getattr(executable, "on_device", False))
            for name, compiled, executable in found), cache.info().fault)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name}: {type_}" for name, type_ in self.inputs.items())
        outputs = ", ".join(f"{name}: {type_}" for name, type_ in self.outputs.items())
        return f"<netc.Function {self.model.name}({inputs}) -> ({outputs}), {self.layout.trainable_size:,} parameters>"

    def _repr_html_(self) -> str:
        """The summary, for a notebook."""
        from .compiler.summary import COLUMNS, NUMBERS
        from .runtime import html
        found = self.summary()
        return html.block(f"model {self.model.name}", html.table(COLUMNS, found.table(), NUMBERS), found.totals())

    # --- programs

    def program(self, kind: str) -> Compiled:
        """The program of this kind ("predict", "evaluate", "gradient", "update", "step", "step_metrics", "trace",
        "trace_training"), compiled once."""
        found = self._compiled.get(kind)
        if found is None:
            with self._lock:
                if kind not in self._compiled:
                    self._compiled[kind] = Compiled(*self._compile(kind))
                found = self._compiled[kind]
        return found

    def _compile(self, kind: str):
        """A program, what runs it, and whether both came from the cache."""
        def make():
            program = self.lower(kind)
            return program, self._executable(program.graph, program.layout, program.replaced, program.trains)
        return self._kept(kind, make)

    def bound_program(self):
        """(What arranges the weights, None where nothing does; the program of inputs and arranged weights), compiled
        once."""
        def make():
            from .compiler.binding import cut
            program = self.lower("predict")
            if not self._is_native:
                return None, program, self._executable(program.graph, program.layout)
            first, layout, program = cut(program)
            return self._executable(first, layout), program, self._executable(program.graph, program.layout)
        with self._lock:
            if "bound" not in self._compiled:
                self._arranging, *made = self._kept("bound", make)
                self._compiled["bound"] = Compiled(*made)
            return self._arranging, self._compiled["bound"]

    def _executable(self, graph: Graph, layout, replaced: Iterable[str] = (), trains: bool = False):
        from .compiler.pipeline import compile_graph
        return compile_graph(graph, layout, self.target, replaced, trains)

    def _kept(self, kind: str, make):
        """What ``make`` gives, of the cache if that knows the model, and whether it is from there."""
        from .compiler import kept
        key = self._key("program", self.target, kind, self._paths) if self.target in ("cpu", "cuda") else None
        with paused():
            found = kept.get(key) if key is not None else None
            if found is not None:
                return *found, True
            if self.target == "cpu":
                _prepare(np.dtype(self.layout.dtype))
            made = make()
            if self.target == "cpu":
                from .runtime import workers
                workers.begin(source.text for source in made[-1].sources.values())
            if key is not None:
                kept.put(key, made)
            return *made, False

    def _key(self, *parts) -> str | None:
        """The key of what is made from the model and these, in the cache; None for a model that is not known there."""
        from .compiler import kept
        return kept.key_of(self.model.identity, *map(repr, parts)) if self.model.identity else None

    def lower(self, kind: str) -> Program:
        """The program as a graph, before the back end.  Raises ModelError where the model has no such program."""
        launches = self.target == "cuda"
        return {"predict": lambda: programs.predict(self.model, self._paths),
                "evaluate": lambda: programs.evaluate(self.model),
                "trace": lambda: programs.trace(self.model),
                "trace_training": lambda: programs.trace(self.model, training=True),
                "gradient": lambda: programs.loss_and_gradient(self.model),
                "update": lambda: programs.update(self.model),
                "step": lambda: programs.step(self.model, launches=launches),
                "step_metrics": lambda: programs.step(self.model, metrics=True, launches=launches)}[kind]()

    def _seed(self, program: Compiled, seed: int | None) -> np.ndarray | None:
        if seed is None:
            if program.uses_seed:
                raise InputError(f"`{self.model.name}` is random here: give `seed`")
            return None
        if not self.model.uses_seed:
            raise InputError(f"`{self.model.name}` is not random: it takes no `seed`")
        return convert_seed(seed)

    def _optimizer_slots(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The optimiser's state by slot, not copied: a fresh one is a number at many places, and a copy would take the
        memory of every element once more.  Raises WeightsError where it is not this optimiser's, or of another model.
        """
        expected = self._optimizer_states
        if not isinstance(state, Mapping):
            raise WeightsError(f"the optimiser's state is {type(state).__name__}, expected a mapping of paths to "
                               f"arrays: fn.init_optimizer() gives a fresh one")
        if state.keys() != expected.keys():
            raise WeightsError(f"the optimiser's state holds {listing(state)}, expected {listing(expected)}")
        slots = {}
        for path, (slot, shape, dtype) in expected.items():
            if np.shape(state[path]) != shape:
                raise WeightsError(f"`{path}` of the optimiser has shape {list(np.shape(state[path]))}, expected "
                                   f"{list(shape)}")
            slots[slot] = np.asarray(state[path], dtype)
        return slots

    @cached_property
    def _optimizer_states(self) -> dict[str, tuple[str, tuple[int, ...], np.dtype]]:
        """By path, the slot, shape and type of what the optimiser keeps.  Raises ModelError where there is none."""
        states, sizes = programs.optimizer_of(self.model).states, programs.optimizer_sizes(self.model)
        return {variable.path: (optimizer_slot(variable),
                                tuple(evaluate(size, sizes) for size in variable.type.shape),
                                variable.type.dtype.numpy) for variable in states}

    def _own(self, weights: Weights) -> Weights:
        if not isinstance(weights, Weights):
            raise WeightsError(f"the weights are {type(weights).__name__}, expected netc.Weights: fn.init() or "
                               f"fn.load()")
        if weights.layout is not self.layout and weights.layout != self.layout:
            Weights.of(self.layout, weights)           # names what is missing, unknown or misshapen
            raise WeightsError(f"the weights are laid out for another model than `{self.model.name}`, or in another "
                               f"precision; `fn.weights_from(dict(weights))` converts them")
        return weights

    def _slots(self, weights: Weights) -> dict[str, np.ndarray]:
        weights = self._own(weights)
        slots = {WEIGHTS: weights.flat}
        if self._apart:
            slots |= {f"state/{path}": weights[path] for path in self._apart}
        return slots


def _differentiated(layout, names: list[str], *outputs: np.ndarray):
    """The gradient program's outputs, which have these names, as ``_differentiate`` gives them."""
    results = dict(zip(names, outputs, strict=True))
    return results, Weights(layout, results[GRADIENT], copy=False)


class Compiled:
    """One program of a model, ready to run."""

    def __init__(self, program: Program, executable, is_kept: bool):
        self.program = program
        self.executable = executable
        self.is_kept = is_kept
        self.signature = Signature(program.inputs, program.ranges, getattr(executable, "on_device", False))
        self.reports = program.reports
        self.uses_seed = program.uses_seed
        self._slots = {leaf.attrs["name"]: programs.input_slot(leaf) for leaf in program.inputs}
        types = dict.fromkeys(type_ for current in program.graph.nodes()
                              for type_ in (current.type if isinstance(current.type, tuple) else (current.type,)))
        self._counts = list(dict.fromkeys(type_.size for type_ in types))
        self._risky = list(dict.fromkeys(size for type_ in types for size in type_.shape if _may_vanish(size)))
        self._allowed: dict[tuple, bool] = {}

    def run(self, state: Mapping[str, np.ndarray], values: Mapping[str, Any], seed: np.ndarray | None,
            out: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Results by output name.  ``state``: arrays by slot of everything but the inputs."""
        slots, sizes = self.slots_of(values, seed)
        slots |= state
        return self.executable.run(slots, sizes, out)

    def evaluate(self, state: Mapping[str, np.ndarray], values: Mapping[str, Any],
                 seed: np.ndarray | None) -> dict[str, Any]:
        """As ``run``; where an input lies in a GPU's memory, so do the results."""
        slots, sizes = self.slots_of(values, seed)
        device = any(not isinstance(array, np.ndarray) for array in slots.values())
        return self.executable.run({**slots, **state}, sizes, **{"device": True} if device else {})

    def slots_of(self, values: Mapping[str, Any],
                 seed: np.ndarray | None) -> tuple[dict[str, np.ndarray], Mapping[str, int]]:
        """The inputs as arrays by slot, and the sizes of the symbols.  Raises InputError."""
        arrays, sizes = self.signature.bind(values)
        self._check_sizes(sizes)
        slots = {self._slots[name]: array for name, array in arrays.items()}
        if seed is not None:
            slots[SEED] = seed
        return slots, sizes

    def slot(self, name: str) -> str:
        """Where an input's array goes."""
        return self._slots[name]

    def prepare(self, values: Mapping[str, Any]) -> None:
        """Make the machine code that a run on such values needs."""
        _, sizes = self.signature.bind(values)
        self._check_sizes(sizes)
        self.executable.bind(sizes)

    def report(self, results: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The losses and metrics among the results, under their public names."""
        return {name: float(results[key]) for key, name in self.reports.items() if key in results}

    def _check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Refuse sizes at which some value would be absurdly large, before anything is allocated."""
        key = tuple(sizes.values())
        if key in self._allowed:
            return
        given = ", ".join(f"{name} = {size}" for name, size in sizes.items()) or "these shapes"
        for size in self._risky:
            if evaluate(size, sizes) < 1:
                raise ModelError(f"with {given} an axis of the model has the size {size} = {evaluate(size, sizes)}: "
                                 "the input is too small for a window")
        worst = max((evaluate(count, sizes) for count in self._counts), default=0)
        if worst >= LARGEST:
            raise ModelError(f"with {given} a value of the model has {worst:,} elements; "
                             f"at most {LARGEST - 1:,} are allowed")
        if len(self._allowed) > 1000:
            self._allowed.clear()
        self._allowed[key] = True


def _may_vanish(size) -> bool:
    """Whether a symbolic size may come out below 1 although every symbol is at least 1 (a window on a short axis)."""
    plain = not isinstance(size, int) and all(isinstance(atom, str) for monomial in size.terms for atom in monomial)
    return not isinstance(size, int) and not (plain and known_nonnegative(size))


def _initial(variable: Variable, seed: int, sizes: Mapping[str, int] | None = None) -> np.ndarray:
    """A variable's first value, by the interpreter."""
    count = evaluate(variable.type.size, sizes or {})
    if count >= LARGEST:
        raise ModelError(f"`{variable.path}` has {count:,} elements; at most {LARGEST - 1:,} are allowed")
    key = convert_seed(seed)
    graph = variable.initial
    used = dict.fromkeys(graph.inputs, key)
    return interpret(Graph(tuple(used), graph.outputs), used, dict(sizes or {}))["value"]


def _result_type(model: str, names: list[str]):
    """A named tuple for several outputs, None for one; a path's dots become underscores."""
    if len(names) == 1:
        return None
    fields: list[str] = []
    for name in names:
        field = re.sub(r"\W", "_", name).lstrip("_") or "output"
        field += "_" * iskeyword(field)
        while field in fields:
            field += "_"
        fields.append(field)
    return namedtuple(f"{model}Outputs", fields)
