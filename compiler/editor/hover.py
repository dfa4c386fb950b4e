"""What is shown about the name or expression under the cursor, as Markdown."""

from __future__ import annotations

from .. import syntax as ast
from ..build.values import Builtin, Function, Instance, ModelValue, Module, Partial, Record, is_tensor, show
from ..diagnostics import Span
from .analysis import Analysis, Named, Place
from .bindings import path_to

DEFINITIONS = (ast.Model, ast.Def, ast.Const)
NAMES = (ast.Name, ast.Target, ast.Attribute, ast.Parameter, ast.Param, ast.State, ast.Input, ast.Loss, ast.Metric,
         ast.ScanSource, ast.Carry, ast.Collect, ast.KeywordArgument)       # trees whose value is that of one name


def hover(analysis: Analysis, line: int, column: int) -> tuple[str, Span] | None:
    """(Markdown, what it is about) for a place; None where nothing is known."""
    named = analysis.named(line, column)
    if named is not None:
        return about(analysis, named, line, column), named.span
    found = analysis.values_at(line, column)
    if found is None or isinstance(found[0], (ast.Number, ast.Boolean, ast.NoneValue, ast.String)):
        return None
    tree, values = found
    text = " ".join(tree.span.text.split())
    return code([f"{text if len(text) <= 60 else text[:57] + '...'}: {value}" for value in texts(values)]), tree.span


def about(analysis: Analysis, named: Named, line: int, column: int) -> str:
    place = named.place
    if place is not None and isinstance(place.tree, DEFINITIONS):
        return "\n\n".join([code([signature(place)]), *comment(place), *uses(analysis, line, column)])
    if named.builtin is not None:
        signature_ = code([builtin_signature(named.name, named.builtin)])
        return "\n\n".join([signature_, "builtin", *uses(analysis, line, column)])
    if place is not None and isinstance(place.tree, ast.File):
        return code([f'import "{place.path.replace(chr(92), "/").rsplit("/", 1)[-1]}"'])
    return "\n\n".join([code(declared(analysis, named, line, column)), role(analysis, named)]).strip()


def declared(analysis: Analysis, named: Named, line: int, column: int) -> list[str]:
    """The name with its values where the cursor is, else those of its declaration, else its declaration as written."""
    found = analysis.values_at(line, column)
    if found is not None and isinstance(found[0], NAMES):
        values = found[1]
    else:
        values = analysis.values.of(named.place.tree) if named.place is not None else []
    lines = [f"{named.name}: {text}" for text in texts(values)]
    if not lines and named.place is not None:
        lines = [" ".join(named.place.tree.span.text.split())]
    return lines or [named.name]


def role(analysis: Analysis, named: Named) -> str:
    """`setting of Dense`, `value of Digits`, ..."""
    if named.symbol is None:
        tree = named.place.tree if named.place is not None else None
        return {ast.Param: "parameter", ast.State: "state", ast.Parameter: "setting or input"}.get(type(tree), "")
    owner = named.symbol.owner
    if owner is None:
        return named.symbol.kind
    return f"{named.symbol.kind} of {f'train {owner.model}' if isinstance(owner, ast.Train) else owner.name}"


def uses(analysis: Analysis, line: int, column: int) -> list[str]:
    """What the calls give that begin with the name under the cursor, and the path of the instance."""
    if analysis.file is None:
        return []
    path = path_to(analysis.file, line, column)
    results, weights = [], []
    values = analysis.values.of(path[-1])
    for outer, inner in zip(reversed(path[:-1]), reversed(path)):
        stage = isinstance(outer, ast.Pipe) and inner in outer.stages
        if not stage and not (isinstance(outer, ast.Call) and outer.callee is inner):
            break
        values = analysis.values.of(inner if stage else outer)
        results += texts([value for value in values if is_tensor(value) or isinstance(value, Record)])
        weights += [value.path for value in values if isinstance(value, Instance) and value.path]
    said = [f"gives `{'`, `'.join(dict.fromkeys(results))}`"] if results else []
    return said + ([f"weights below `{'`, `'.join(dict.fromkeys(weights))}`"] if weights else [])


# ---- texts ----------------------------------------------------------------------------------------------------------


def code(lines: list[str]) -> str:
    return "```net\n" + "\n".join(lines) + "\n```"


def texts(values: list) -> list[str]:
    return list(dict.fromkeys(map(value_text, values)))


def value_text(value) -> str:
    """A value as a reader of the file would write its type."""
    if is_tensor(value):
        return str(value.type).replace("'", "")
    if isinstance(value, Record):
        return f"({', '.join(f'{name}: {value_text(item)}' for name, item in value.fields.items())})"
    if isinstance(value, Instance):
        return f"instance of {value.name}"
    if isinstance(value, (ModelValue, Function, Builtin, Partial)):
        return f"{'model' if isinstance(value, ModelValue) else 'function'} {value.name}"
    if isinstance(value, Module):
        return "imported file"
    if isinstance(value, tuple) and any(map(is_tensor, value)):
        return f"({', '.join(map(value_text, value))})"
    return show(value).replace("'", "")


def signature(place: Place) -> str:
    """The head of a definition."""
    tree = place.tree
    if isinstance(tree, ast.Model):
        return tree.header.text
    if isinstance(tree, ast.Def):
        return f"def {tree.name}({', '.join(parameter.span.text for parameter in tree.params)})"
    return tree.span.text


def builtin_signature(name: str, value) -> str:
    if not isinstance(value, Builtin):
        return name
    shown = [p.name if p.required else f"{p.name} = {show(p.default)}" for p in value.parameters]
    return f"{name}({'*' if value.variadic else ''}{', '.join(shown)})"


def comment(place: Place) -> list[str]:
    """The comment right above a definition."""
    source, row = place.tree.span.source, place.tree.span.line - 1
    lines: list[str] = []
    while source.line(row).startswith("#"):
        lines.insert(0, source.line(row).lstrip("#").strip())
        row -= 1
    return [" ".join(lines)] if lines else []
