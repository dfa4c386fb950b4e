"""From the concrete tree to the syntax tree (`syntax.py`), children first and without recursion, whatever the depth of
the text.

What the grammar leaves open is checked here: what may be assigned to, the order of arguments, where a statement may
stand, the range of numbers, the depth of nesting.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from . import syntax as ast
from .diagnostics import Diagnostic, Source, Span, did_you_mean
from .lalr import Token, Tree
from .layout import token_span

MAX_DEPTH = 200                 # of the tree; whoever walks it by recursion may count on it
MAX_INTEGER = 2**63 - 1
ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
STATEMENT_WORDS = ("if", "elif", "else", "for", "return", "param", "state", "penalty", "scan", "assert", "input",
                   "loss", "metric")


def build(root: Tree, source: Source) -> tuple[ast.File, list[Diagnostic]]:
    """The file of a concrete tree, and what is wrong with it; with errors the file is only good for finding more of
    them."""
    builder = Builder(source)
    return builder.run(root), builder.errors


class Builder:
    """A method a rule: it gets the concrete tree and its children's results (tokens and None stay as they are)."""

    def __init__(self, source: Source):
        self.source = source
        self.errors: list[Diagnostic] = []
        self.depths: dict[int, int] = {}
        self.too_deep = False

    def run(self, root: Tree) -> ast.File:
        results: dict[int, Any] = {}
        for tree in root.subtrees():
            children = [results[id(child)] if isinstance(child, Tree) else child for child in tree.children]
            results[id(tree)] = getattr(self, "on_" + tree.data)(tree, children)
        return results[id(root)]

    # -- helpers --

    def error(self, code: str, message: str, span: Span, **rest) -> None:
        self.errors.append(Diagnostic(code, message, span, **rest))

    def span(self, tree: Tree | Token) -> Span:
        if isinstance(tree, Token):
            return token_span(tree, self.source)
        if tree.start is None or tree.end is None:
            return Span(self.source, 1, 1, 1, 1)
        return Span(self.source, *tree.start[1:], *tree.end[1:])

    def make(self, kind: type, where: Tree | Token | Span, *fields):
        """A node, unless it stands too deep: then a plain number, which keeps what is above it shallow."""
        span = where if isinstance(where, Span) else self.span(where)
        depth = 0
        for value in fields:
            for child in value if isinstance(value, tuple) else (value,):
                depth = max(depth, self.depths.get(id(child), 0))
        if depth >= MAX_DEPTH:
            if not self.too_deep:
                self.too_deep = True
                hint = "give a part of it a name" if not issubclass(kind, ast.If) \
                    else "write the choices as a tuple, or as models of their own"
                self.error("E0801", f"nested more than {MAX_DEPTH} deep", span.start(), hint=hint)
            kind, fields, depth = ast.Number, (0,), 0
        node = kind(span, *fields)
        self.depths[id(node)] = depth + 1
        return node

    def plain_value(self, node):
        """The node, which must not be starred."""
        if isinstance(node, ast.Starred):
            self.error("E0101", "a star stands only in a tuple or among arguments", node.span.start(),
                       hint="a tuple of one is written `(*values,)`")
            return node.value
        return node

    # -- expressions --

    def on_number(self, tree, children):
        return self.number(children[0])

    def number(self, token: Token):
        text = token.replace("_", "")
        shown = text if len(text) <= 30 else text[:30] + "..."
        span = self.span(token)
        if text.isdigit():
            if len(text.lstrip("0")) > 19 or int(text.lstrip("0") or "0") > MAX_INTEGER:
                self.error("E0802", f"the integer {shown} does not fit into 64 bits", span)
                return self.make(ast.Number, span, 0)
            return self.make(ast.Number, span, int(text.lstrip("0") or "0"))
        value = float(text)
        if not math.isfinite(value) or (value == 0
                                        and any(digit in "123456789" for digit in text.lower().split("e")[0])):
            self.error("E0802", f"the number {shown} is too {'large' if value else 'small'} for a float", span)
            value = 0.0
        return self.make(ast.Number, span, value)

    def on_string(self, tree, children):
        return self.make(ast.String, tree, self.string(children[0]))

    def string(self, token: Token) -> str:
        pieces, text, i = [], token[1:-1], 0
        while i < len(text):
            if text[i] != "\\":
                pieces.append(text[i])
                i += 1
                continue
            if text[i + 1] not in ESCAPES:
                column = token.column + 1 + i
                self.error("E0109", f"unknown escape `\\{text[i + 1]}`",
                           Span(self.source, token.line, column, token.line, column + 2),
                           expected='`\\n`, `\\t`, `\\"` or `\\\\`')
            pieces.append(ESCAPES.get(text[i + 1], ""))
            i += 2
        return "".join(pieces)

    def on_name(self, tree, children):
        return self.make(ast.Name, tree, str(children[0]))

    def on_true(self, tree, children):
        return self.make(ast.Boolean, tree, True)

    def on_false(self, tree, children):
        return self.make(ast.Boolean, tree, False)

    def on_none(self, tree, children):
        return self.make(ast.NoneValue, tree)

    def on_ellipsis(self, tree, children):
        return self.make(ast.Ellipsis, tree)

    def on_tuple(self, tree, children):
        return self.make(ast.Tuple, tree, tuple(children))

    def on_starred(self, tree, children):
        return self.make(ast.Starred, tree, self.plain_value(children[0]))

    def on_brackets(self, tree, children):
        if not children:
            return self.make(ast.Tuple, tree, ())
        inner = self.plain_value(children[0])
        if isinstance(inner, ast.Tuple):  # its brackets belong to it
            return self.make(ast.Tuple, tree, inner.items)
        return inner

    def on_keyword(self, tree, children):
        name, value = children
        return self.make(ast.KeywordArgument, tree, str(name), value, self.span(name))

    def on_call(self, tree, children):
        args, kwargs, seen = [], [], {}
        for child in children[1:]:
            if not isinstance(child, ast.KeywordArgument):
                if kwargs:
                    self.error("E0113", "a positional argument follows a named one", child.span,
                               hint="arguments given by order come first, those given by name after them")
                args.append(child)
                continue
            if child.name in seen:
                self.error("E0112", f"`{child.name}` is given twice", child.name_span,
                           related=(("first given here", seen[child.name]),))
                continue
            seen[child.name] = child.name_span
            kwargs.append(child)
        return self.make(ast.Call, tree, children[0], tuple(args), tuple(kwargs))

    def on_slice(self, tree, children):
        return self.make(ast.Slice, tree, *children)

    def on_index(self, tree, children):
        value, items = children[0], tuple(children[1:])
        if not items:
            self.error("E0118", "an index is missing between the brackets", self.span(tree))
        self.one_ellipsis(items)
        return self.make(ast.Index, tree, value, items)

    def one_ellipsis(self, items) -> None:
        several = [item for item in items if isinstance(item, ast.Ellipsis)]
        if len(several) > 1:
            self.error("E0118", "`...` may stand only once", several[1].span)

    def on_attribute(self, tree, children):
        return self.make(ast.Attribute, tree, children[0], str(children[1]), self.span(children[1]))

    def on_unary(self, tree, children):
        return self.make(ast.Unary, tree, str(children[0]), children[1])

    def on_not(self, tree, children):
        return self.make(ast.Unary, tree, "not", children[0])

    def on_binary(self, tree, children):
        left, op, right = children
        return self.make(ast.Binary, tree, str(op), left, right, self.span(op))

    def on_compare(self, tree, children):
        left, op, right = children
        return self.make(ast.Compare, tree, str(op), left, right, self.span(op))

    def on_and(self, tree, children):
        return self.make(ast.BoolOp, tree, "and", tuple(children))

    def on_or(self, tree, children):
        return self.make(ast.BoolOp, tree, "or", tuple(children))

    def on_conditional(self, tree, children):
        then, condition, otherwise = children
        return self.make(ast.Conditional, tree, condition, then, otherwise)

    def on_pipe(self, tree, children):
        return self.make(ast.Pipe, tree, children[0], tuple(children[1:]))

    # -- types and parameters --

    def on_type(self, tree, children):
        name, dims = children
        return self.make(ast.TypeAnnotation, tree, str(name), dims or (), dims is not None)

    def on_dims(self, tree, children):
        self.one_ellipsis(children)
        return tuple(children)

    def on_tuple_type(self, tree, children):
        return self.make(ast.TupleAnnotation, tree, tuple(children))

    def on_parameter(self, tree, children):
        star, name, annotation, default = children
        if star is not None and default is not None:
            self.error("E0119", "a parameter with a star takes what is left and has no default", default.span)
        return self.make(ast.Parameter, tree, str(name), annotation, default, star is not None, self.span(name))

    def on_parameters(self, tree, children):
        seen: dict[str, ast.Parameter] = {}
        optional = variadic = None
        for parameter in children:
            if parameter.name in seen:
                self.error("E0119", f"the parameter `{parameter.name}` stands twice", parameter.name_span,
                           related=(("first here", seen[parameter.name].name_span),))
            if parameter.variadic and variadic:
                self.error("E0119", "only one parameter can take what is left", parameter.span)
            if parameter.default is None and not parameter.variadic and optional and not variadic:
                self.error("E0119", f"`{parameter.name}` has no default but follows `{optional.name}`, which has one",
                           parameter.name_span,
                           hint="parameters with a default come last")
            seen.setdefault(parameter.name, parameter)
            optional = parameter if parameter.default is not None else optional
            variadic = variadic or parameter.variadic
        return tuple(children)

    def on_output(self, tree, children):
        name, annotation = children
        return self.make(ast.Parameter, tree, str(name), annotation, None, False, self.span(name))

    def on_outputs(self, tree, children):
        seen = set()
        for output in children:
            if output.name in seen:
                self.error("E0119", f"the output `{output.name}` stands twice", output.name_span)
            seen.add(output.name)
        return tuple(children)

    # -- statements --

    def on_block(self, tree, children):
        return tuple(children)

    on_rules = on_sources = on_carries = on_collects = on_block

    def on_bare(self, tree, children):
        value = children[0]
        hint = None
        if isinstance(value, ast.Compare) and value.op == "==":
            hint = "a name is bound with `=`"
        elif isinstance(value, ast.Name):
            hint = did_you_mean(value.name, STATEMENT_WORDS)
        self.error("E0111", "the value of this expression is not used", value.span, hint=hint
                   or "bind it to a name, or return it")
        # a statement that may stand anywhere, so that nothing more is said of it
        return self.make(ast.Assert, tree, value, None)

    def on_assign(self, tree, children):
        target, value = children[0], self.plain_value(children[1])
        if isinstance(target, ast.Call) and isinstance(target.callee, ast.Name) and target.callee.name == "gradient":
            return self.gradient_rule(tree, target, value)
        unpack = isinstance(target, ast.Tuple)
        names = target.items if unpack else (target,)
        return self.make(ast.Assign, tree, tuple(self.target(name) for name in names), value, unpack)

    def target(self, node) -> ast.Target:
        if isinstance(node, ast.Name):
            return self.make(ast.Target, node.span, node.name)
        kinds = {ast.Call: "a call", ast.Index: "an element", ast.Attribute: "a member", ast.Number: "a number",
                 ast.Boolean: "a constant", ast.NoneValue: "a constant", ast.Tuple: "a tuple in a tuple",
                 ast.String: "text"}
        what = kinds.get(type(node), "an expression")
        hint = "`=` binds a name; to compare write `==`"
        if isinstance(node, ast.Index):
            hint = "values do not change; make a new one with `where` or `concat`"
        elif isinstance(node, ast.Call):
            hint = "a function is defined with `def name(x) = ...` at the top level"
        self.error("E0110", f"{what} cannot be assigned to", node.span,
                   expected="a name, or names with commas between them", hint=hint)
        return self.make(ast.Target, node.span, "")

    def gradient_rule(self, tree, call: ast.Call, value):
        if len(call.args) == 1 and not call.kwargs and isinstance(call.args[0], ast.Name):
            return self.make(ast.GradientRule, tree, call.args[0].name, value, call.args[0].span)
        self.error("E0506", "a gradient rule names one parameter, the result's cotangent", call.span,
                   expected="`gradient(dy) = ...`")
        return self.make(ast.GradientRule, tree, "", value, call.span)

    def on_return(self, tree, children):
        return self.make(ast.Return, tree, self.plain_value(children[0]))

    def on_penalty(self, tree, children):
        return self.make(ast.Penalty, tree, children[0])

    def on_assert(self, tree, children):
        condition, message = children
        return self.make(ast.Assert, tree, condition, None if message is None else self.string(message))

    def on_param(self, tree, children):
        name, annotation, initial = children
        return self.make(ast.Param, tree, str(name), annotation, initial, self.span(name))

    def on_state(self, tree, children):
        name, annotation, initial = children
        return self.make(ast.State, tree, str(name), annotation, initial, self.span(name))

    def on_input(self, tree, children):
        return self.make(ast.Input, tree, str(children[0]), children[1], self.span(children[0]))

    def on_loss(self, tree, children):
        return self.make(ast.Loss, tree, str(children[0]), children[1], self.span(children[0]))

    def on_metric(self, tree, children):
        return self.make(ast.Metric, tree, str(children[0]), children[1], self.span(children[0]))

    def on_elif(self, tree, children):
        return (self.span(tree), *children)

    def on_if(self, tree, children):
        condition, then, *elifs, otherwise = children
        otherwise = otherwise or ()
        for span, other_condition, block in reversed(elifs):
            otherwise = (self.make(ast.If, span, other_condition, block, otherwise),)
        return self.make(ast.If, tree, condition, then, otherwise)

    def on_names(self, tree, children):
        return tuple(self.make(ast.Target, name, str(name)) for name in children)

    def on_for(self, tree, children):
        targets, iterable, body = children
        return self.make(ast.For, tree, targets, self.plain_value(iterable), body)

    def on_source(self, tree, children):
        name, value = children
        return self.make(ast.ScanSource, tree, str(name), value, self.span(name))

    def on_carry(self, tree, children):
        name, initial = children
        return self.make(ast.Carry, tree, str(name), initial, self.span(name))

    def on_collect(self, tree, children):
        value, name = children[0], children[1] or children[0]
        return self.make(ast.Collect, tree, str(value), str(name), self.span(value), self.span(name))

    def on_scan(self, tree, children):
        sources, axis, reverse, carries, collects, body = children
        bound: set[str] = set()
        for part in (*sources, *(carries or ())):
            if part.name in bound:
                self.error("E0505", f"`{part.name}` is bound twice by this scan", part.name_span)
            bound.add(part.name)
        return self.make(ast.Scan, tree, sources, axis, reverse is not None, carries or (), collects or (), body)

    # -- top level --

    def on_version(self, tree, children):
        number = self.number(children[0])
        if number.value != 1 or isinstance(number.value, float):
            self.error("E0103", f"unknown version {children[0][:20]} of the language", number.span, expected="`net 1`",
                       hint="this compiler reads version 1 only")
        return self.make(ast.Version, tree, 1)

    def on_import(self, tree, children):
        path, name = children
        return self.make(ast.Import, tree, self.string(path), str(name), self.span(path), self.span(name))

    def on_const(self, tree, children):
        name, annotation, value = children
        return self.make(ast.Const, tree, str(name), annotation, self.plain_value(value), self.span(name))

    def on_def(self, tree, children):
        name, params, body, *rules = children
        rule = None
        if isinstance(body, tuple):
            if body and isinstance(body[-1], ast.GradientRule):
                body, rule = body[:-1], body[-1]
            if not body:
                self.error("E0502", "a function needs a body before its gradient", rule.span)
        else:
            body = self.plain_value(body)
            below = rules[0] if rules else ()
            if below and isinstance(below[0], ast.GradientRule):
                rule, below = below[0], below[1:]
            if below and name:
                self.error("E0506", "below a function of one line stands only its gradient", below[0].span,
                           expected="`gradient(dy) = ...`",
                           hint="for a body of several lines write `:` instead of `=`")
        if name and isinstance(body, tuple):
            self.place(body, "def")
        return self.make(ast.Def, tree, str(name), params, body, rule, self.span(name))

    def on_model(self, tree, children):
        name, first, second, result, body = children
        settings, inputs = (first, second) if second is not None else ((), first)
        outputs = result if isinstance(result, tuple) else None
        result = None if isinstance(result, tuple) else result
        if name:
            self.place(body, "model")
        taken = {parameter.name: parameter for parameter in settings}
        for parameter in inputs:
            if parameter.name in taken:
                self.error("E0119", f"`{parameter.name}` is a setting and an input", parameter.name_span,
                           related=(("the setting", taken[parameter.name].name_span),))
        signature = [child for child in tree.children[:4] if isinstance(child, Tree)]
        header = self.span(tree).start().to(self.span(signature[-1]))
        return self.make(ast.Model, tree, str(name), settings, inputs, outputs, result, body, self.span(name), header)

    def on_train(self, tree, children):
        name, body = children
        self.place(body, "train")
        return self.make(ast.Train, tree, str(name), self.with_optimizers(body), self.span(name))

    def on_start(self, tree, children):
        version, *items = children
        sections = (ast.Import, ast.Const, ast.Def, ast.Model, ast.Train)
        kinds = [tuple(item for item in items if isinstance(item, kind)) for kind in sections]
        lines = self.source.lines
        return ast.File(Span(self.source, 1, 1, len(lines), len(lines[-1]) + 1), version, *kinds, tuple(items))

    # -- where a statement may stand --

    def place(self, body: tuple, context: str) -> None:
        """Reports the statements that have no place in a model, a def or a train block."""
        queue = list(body)
        for statement in queue:
            kind = type(statement)
            if kind in MISPLACED[context]:
                code = "E0506" if kind is ast.GradientRule else "E0601" if context == "train" else "E0501"
                self.error(code, f"{WORDS[kind]} cannot stand in {PLACES[context]}", statement.span,
                           hint=MISPLACED[context][kind])
            if context == "train" and kind is ast.Assign and not statement.unpack \
                    and statement.targets[0].name in ("loss", "metric"):
                word = statement.targets[0].name
                self.error("E0606", f"the {word} has no name", statement.targets[0].span,
                           expected=f"`{word} name = ...`",
                           hint=f"each {word} is reported under its name")
            for inner in ("then", "otherwise", "body"):
                queue.extend(getattr(statement, inner, ()))

    def with_optimizers(self, body: tuple) -> tuple:
        """The statements of a train block, with each `optimizer = value` made an Optimizer."""
        return tuple(self.with_optimizer(statement) for statement in body)

    def with_optimizer(self, statement):
        if isinstance(statement, ast.Assign) and not statement.unpack and statement.targets[0].name == "optimizer":
            return self.make(ast.Optimizer, statement.span, statement.value)
        if isinstance(statement, ast.If):  # recursion is bounded: the tree is at most MAX_DEPTH deep
            return replace(statement, then=self.with_optimizers(statement.then),
                           otherwise=self.with_optimizers(statement.otherwise))
        if isinstance(statement, ast.For):
            return replace(statement, body=self.with_optimizers(statement.body))
        return statement


WORDS = {ast.Param: "`param`", ast.State: "`state`", ast.Penalty: "`penalty`", ast.Input: "`input`", ast.Loss: "`loss`",
         ast.Metric: "`metric`", ast.Return: "`return`", ast.Scan: "`scan`", ast.GradientRule: "a gradient rule"}
PLACES = {"model": "a model", "def": "a def", "train": "a train block"}
TRAIN_ONLY = "losses, metrics and targets stand in a `train` block"
MODEL_ONLY = "a def has no weights and no state of its own; write a model"
GRADIENT = "a gradient rule is the last statement of a def"
MISPLACED = {
    "model": {ast.Input: "inputs of a model stand in its signature", ast.Loss: TRAIN_ONLY, ast.Metric: TRAIN_ONLY,
              ast.GradientRule: GRADIENT},
    "def": {ast.Param: MODEL_ONLY, ast.State: MODEL_ONLY, ast.Penalty: MODEL_ONLY, ast.Input: TRAIN_ONLY,
            ast.Loss: TRAIN_ONLY,
            ast.Metric: TRAIN_ONLY, ast.GradientRule: GRADIENT},
    "train": {ast.Return: "what a train block says is named: `loss name = ...`",
              ast.Param: "parameters belong to a model",
              ast.State: "state belongs to a model", ast.Scan: "a scan belongs into a model or a def",
              ast.GradientRule: GRADIENT},
}
