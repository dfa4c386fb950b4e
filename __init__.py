"""netc: a language for neural networks, compiled to the machine.

    import netc
    fn = netc.compile("model.net")
    w = fn.init(seed=0)
    y = fn(w, x)

This module is a lazy face: importing it imports nothing else, not even NumPy.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"

# public name -> (module, name there)
_PUBLIC = {
    "compile": (".function", "compile"),
    "Function": (".function", "Function"),
    "Bound": (".bound", "Bound"),
    "Trainer": (".trainer", "Trainer"),
    "step_seed": (".inputs", "step_seed"),
    "Weights": (".runtime.weights", "Weights"),
    "History": (".runtime.history", "History"),
    "EarlyStopping": (".runtime.callbacks", "EarlyStopping"),
    "ReduceLROnPlateau": (".runtime.callbacks", "ReduceLROnPlateau"),
    "Checkpoint": (".runtime.callbacks", "Checkpoint"),
    "Log": (".runtime.callbacks", "Log"),
    "NetcError": (".runtime.errors", "NetcError"),
    "InputError": (".runtime.errors", "InputError"),
    "WeightsError": (".runtime.errors", "WeightsError"),
    "ModelError": (".runtime.errors", "ModelError"),
    "DeviceError": (".runtime.errors", "DeviceError"),
    "NotFiniteError": (".runtime.errors", "NotFiniteError"),
    "Trace": (".tracing", "Trace"),
    "CompileError": (".compiler.diagnostics", "Diagnostics"),
    "set_threads": (".runtime.pool", "set_threads"),
    "roofline": (".runtime.roofline", "roofline"),
}
# These need more than the core: public name -> (module, name there, what it needs, the extra that brings it)
_OPTIONAL = {
    "Classifier": (".estimators", "Classifier", "scikit-learn", "sklearn"),
    "Regressor": (".estimators", "Regressor", "scikit-learn", "sklearn"),
}
__all__ = [*_PUBLIC, "__version__"]        # noqa: PLE0604 - keys of a table, all strings


def __getattr__(name):
    if name in _OPTIONAL:
        module, attribute, needs, extra = _OPTIONAL[name]
        try:
            value = getattr(_import_module(module, __name__), attribute)
        except ModuleNotFoundError as error:
            raise ImportError(f"netc.{name} needs {needs}: pip install 'netc[{extra}]' ({error})") from None
    elif name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        value = getattr(_import_module(module, __name__), attribute)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value            # the next access does not come here
    return value


def __dir__():
    return sorted({*globals(), *__all__, *_OPTIONAL})
