"""What a caller gives as expressions of the language: another optimiser, or another learning rate, than a file says,
put into its tree; and values for settings."""

from __future__ import annotations

from dataclasses import replace

from .. import syntax
from ..diagnostics import Diagnostic, Diagnostics
from .values import CODES


def override(tree: syntax.File, model: str | None, optimizer: str | None, lr: str | float | None) -> syntax.File:
    """The tree with the optimiser of the trained model replaced, and then its setting ``lr``.

    Raises Diagnostics where an expression is none, or there is nothing to replace.
    """
    if optimizer is None and lr is None:
        return tree
    block = next((block for block in tree.trains if model is None or block.model == model), None)
    if block is None:
        raise _fault("optimizer", "there is no train block whose optimiser could be replaced", tree.version.span)
    if optimizer is not None:
        value = expression(optimizer, "optimizer")
        body = tuple(statement for statement in block.body if not isinstance(statement, syntax.Optimizer))
        new = replace(block, body=(*body, syntax.Optimizer(value=value, span=value.span)))
    else:
        new = block
    if lr is not None:
        new = replace(new,
                      body=tuple(_with_rate(s, expression(str(lr), "lr")) if isinstance(s, syntax.Optimizer) else s
                                      for s in new.body))
    return replace(tree, items=tuple(new if item is block else item for item in tree.items),
                   trains=tuple(new if item is block else item for item in tree.trains))


def _with_rate(statement: syntax.Optimizer, rate: syntax.Expression) -> syntax.Optimizer:
    """`adam(lr = 1e-3)` with another rate; the rate is also the first setting of every optimiser of the prelude."""
    call = statement.value
    if not isinstance(call, syntax.Call):
        raise _fault("optimizer", "this optimiser takes no learning rate", call.span)
    kept = tuple(argument for argument in call.kwargs if argument.name != "lr")
    first = call.args[1:] if len(kept) == len(call.kwargs) else call.args
    given = syntax.KeywordArgument(name="lr", value=rate, name_span=rate.span, span=rate.span)
    if first:
        return replace(statement, value=replace(call, args=(rate, *first), kwargs=kept))
    return replace(statement, value=replace(call, args=(), kwargs=(given, *kept)))


def expression(text: str, name: str) -> syntax.Expression:
    """The tree of one expression, which is for ``name``; whatever else the text holds is an error."""
    tree = syntax.parse(f"net 1\nconst {name} = {text}\n", f"<{name}>")
    if len(tree.items) != 1 or not isinstance(tree.items[0], syntax.Const):
        raise _fault("optimizer", "one expression is expected here", tree.items[-1].span)
    return tree.items[0].value


def _fault(kind: str, message: str, span) -> Diagnostics:
    return Diagnostics(Diagnostic(code=CODES[kind], message=message, span=span))
