"""What may be written next. Works on the tokens before the cursor, since a text that is being written seldom parses."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from ...runtime.records import dataclass
from .. import syntax as ast
from ..build.builtins import scope_names
from ..build.values import Builtin, Instance, Record
from ..lalr import Token
from ..prelude import prelude_index
from ..tables import tables
from ..types import DTYPES
from .analysis import Analysis, Place, prelude_place
from .bindings import Scope, Symbol
from .hover import builtin_signature, comment, signature, value_text

TOP = {"import": 'import "file.net" as name', "const": "const name = value", "def": "def name(x) = expression",
       "model": "model Name(settings)(inputs) -> result:", "train": "train Model:"}
BODY = {"return": "return value", "if": "if condition:", "for": "for i in range(n):", "penalty": "penalty scalar",
        "assert": 'assert condition, "message"'}
MODEL = {**BODY, "param": "param name: f32[K] = zeros", "state": "state name: f32[K] = zeros",
         "scan": "scan z in x along 1 carrying h = start collecting h as hs:"}
TRAIN = {"input": "input target: f32[N]", "loss": "loss name = scalar", "metric": "metric name = scalar",
         "optimizer": "optimizer = adam()", "penalty": BODY["penalty"], "if": BODY["if"], "for": BODY["for"]}
KINDS = ("int", "float", "bool", "tuple", "function", "model")       # of settings, besides the element types
MOST_FILES = 200
CONSTANTS = ("true", "false", "none", "training")


@dataclass(frozen=True)
class Item:
    """One proposal. `group` orders them: what belongs to the place before what is there anyway."""

    label: str
    kind: str            # setting, member, keyword, type, constant, file, or the kind of a Symbol
    group: int
    detail: str | None = None
    insert: str | None = None


def complete(analysis: Analysis, line: int, column: int) -> list[Item]:
    """Proposals for a place (counted from 1) in the analysis's text."""
    lines = analysis.text.split("\n")
    row = lines[line - 1][:column - 1] if line <= len(lines) else ""
    tokens = tables().tokens("\n".join([*lines[:line - 1], row]))
    if tokens and tokens[-1].type == "BAD_STRING":
        return files(analysis) if re.match(r"\s*import\s", row) else []
    if "#" in row[tokens[-1].end_column - 1 if tokens and tokens[-1].line == line else 0:]:
        return []
    if tokens and tokens[-1].line == line and tokens[-1].end_column == column and re.fullmatch(r"\w+", tokens[-1]):
        tokens.pop()                                     # the word that is being written
    found: dict[str, Item] = {}
    for item in Completion(analysis, tokens, line).items():
        found.setdefault(item.label, item)
    return list(found.values())


def files(analysis: Analysis) -> list[Item]:
    """The model files that could be imported."""
    folder = Path(analysis.path).parent
    paths = sorted(folder.rglob("*.net"))[:MOST_FILES] if folder.is_dir() else []
    names = [path.relative_to(folder).as_posix() for path in paths]
    return [Item(name, "file", 0) for name in names if name != Path(analysis.path).name]


class Completion:
    def __init__(self, analysis: Analysis, tokens: list[Token], line: int):
        self.analysis, self.tokens, self.line = analysis, tokens, line

    @property
    def before(self) -> str:
        return self.tokens[-1].type if self.tokens else ""

    def items(self) -> list[Item]:
        opening = self.opening()
        if self.before == "DOT":
            return self.members()
        if self.before in ("_IMPORT", "_AS", "_DEF", "_MODEL", "_CONST") or (self.before == "NAME" and self.on_line()):
            return []                                    # a new name, or nothing that can follow a name without a sign
        if self.before == "_TRAIN":
            return [Item(model.name, "model", 0) for model in self.file_models()]
        if self.before == "COLON" and self.in_declaration(opening):
            return [Item(name, "type", 0) for name in (*DTYPES, *KINDS)]
        if self.before == "ARROW":
            return [Item(name, "type", 0) for name in DTYPES]
        if not self.on_line() and opening is None:
            return self.statements() + self.names()
        settings = self.settings(opening) if opening is not None and self.before in ("LPAR", "COMMA") else []
        return settings + self.names()

    def on_line(self) -> bool:
        return bool(self.tokens) and self.tokens[-1].end_line == self.line

    def opening(self) -> int | None:
        """The index of the bracket that is open at the cursor."""
        depth = 0
        for i in range(len(self.tokens) - 1, -1, -1):
            kind = self.tokens[i].type
            depth += {"RPAR": 1, "RSQB": 1, "LPAR": -1, "LSQB": -1}.get(kind, 0)
            if depth < 0:
                return i
            if kind in ("_MODEL", "_TRAIN", "_DEF", "_RETURN") and self.tokens[i].column == 1:
                return None
        return None

    def in_declaration(self, opening: int | None) -> bool:
        """Whether a colon stands before a type, not before a block or in a slice."""
        row = [token for token in self.tokens if token.line == self.tokens[-1].line]
        if row[0].type in ("_PARAM", "_STATE", "_INPUT", "_CONST"):
            return len(row) == 3
        if opening is None or self.tokens[opening].type != "LPAR":
            return False
        head = next((token for token in reversed(self.tokens[:opening]) if token.column == 1), None)
        return head is not None and head.type in ("_MODEL", "_DEF")

    # -- kinds of places --

    def statements(self) -> list[Item]:
        row = self.analysis.text.split("\n")[self.line - 1]
        if not row[:1].isspace():
            words = TOP if self.tokens else {"net": "net 1"}
        else:
            head = next((token.type for token in reversed(self.tokens) if token.column == 1), "")
            words = {"_TRAIN": TRAIN, "_DEF": BODY}.get(head, MODEL)
        return [Item(word, "keyword", 1, detail) for word, detail in words.items()]

    def names(self) -> list[Item]:
        """Every name that can be seen: the nearest first."""
        found: dict[str, Item] = {}
        scope: Scope | None = self.scope()
        group = 2
        while scope is not None:
            for symbol in scope.names.values():
                found.setdefault(symbol.name, Item(symbol.name, symbol.kind, group, self.detail(symbol)))
            scope, group = scope.parent, 3
        for name in prelude_index():
            if not name.startswith("_"):
                found.setdefault(name, Item(name, "model" if name[:1].isupper() else "function", 4, "prelude"))
        for name, value in scope_names().items():
            detail = builtin_signature(name, value) if isinstance(value, Builtin) else None
            found.setdefault(name, Item(name, "function" if detail else "constant", 5, detail))
        for name in CONSTANTS:
            found.setdefault(name, Item(name, "constant", 6))
        return list(found.values())

    def detail(self, symbol: Symbol) -> str | None:
        if isinstance(symbol.tree, (ast.Model, ast.Def)):
            return " ".join(signature(Place(self.analysis.path, symbol.tree, symbol.places[0])).split())
        if isinstance(symbol.tree, ast.Const):
            return " ".join(symbol.tree.value.span.text.split())
        values = self.analysis.values_of(symbol)
        return value_text(values[-1]) if values else None

    def scope(self) -> Scope | None:
        """The scope of the cursor. A line that does not parse yet may end a block too early: then that above."""
        names = self.analysis.names
        if names is None:
            return None
        indented = self.analysis.text.split("\n")[self.line - 1][:1].isspace()
        above = [scope for scope in names.scopes if scope.parent is not None and scope.tree.span.line <= self.line
                 and not isinstance(scope.tree, (ast.Scan, ast.GradientRule))]
        inner = names.scope_at(self.line)
        if inner is not names.top or not above or not indented:
            return inner
        return max(above, key=lambda scope: scope.tree.span.line)

    def file_models(self) -> tuple[ast.Model, ...]:
        return self.analysis.file.models if self.analysis.file is not None else ()

    def settings(self, opening: int) -> list[Item]:
        """The settings, inputs or arguments that the open bracket takes and that are not given yet."""
        found = self.callee(opening)
        if found is None:
            return []
        place, which = found
        inside = self.tokens[opening + 1:]
        given = {str(token) for token, following in pairwise(inside) if following.type == "EQUAL"}
        return [Item(p.name, "setting", 0, p.span.text, f"{p.name} = ") for p in getattr(place.tree, which)
                if p.name not in given and not p.variadic]

    def callee(self, opening: int) -> tuple[Place, str] | None:
        """What stands before a bracket: the definition that is called, and what the bracket gives values to."""
        if self.tokens[opening].type != "LPAR" or opening == 0:
            return None
        last = opening - 1
        if self.tokens[last].type == "RPAR":             # the second bracket of `Model(settings)(inputs`
            depth, i = 0, last
            while i >= 0:
                depth += {"RPAR": 1, "RSQB": 1, "LPAR": -1, "LSQB": -1}.get(self.tokens[i].type, 0)
                if depth == 0:
                    break
                i -= 1
            inner = self.callee(i) if i > 0 else None
            return (inner[0], "inputs") if inner is not None and inner[1] == "settings" else None
        if self.tokens[last].type != "NAME":
            return None
        name, place = str(self.tokens[last]), None
        if last >= 2 and self.tokens[last - 1].type == "DOT":
            place = self.analysis.member_of_import(str(self.tokens[last - 2]), name)
        else:
            scope = self.scope()
            symbol = scope.find(name) if scope is not None else None
            if symbol is not None:
                place = Place(self.analysis.path, symbol.tree, symbol.places[0])
                for value in self.analysis.values_of(symbol):
                    if isinstance(value, Instance):
                        return Place(place.path, value.model.tree, value.model.tree.name_span), "inputs"
            else:
                place = prelude_place(name)
        which = {ast.Model: "settings", ast.Def: "params"}.get(type(place.tree)) if place is not None else None
        return (place, which) if place is not None and which is not None else None

    def members(self) -> list[Item]:
        """What may follow a point: the definitions of an imported file, outputs, weights and inner values."""
        if len(self.tokens) < 2 or self.tokens[-2].type != "NAME":
            return []
        name = str(self.tokens[-2])
        if name in self.analysis.imported:
            path, file = self.analysis.imported[name]
            places = [Place(path, item, item.name_span) for item in (*file.models, *file.defs, *file.consts)]
            kinds = {ast.Model: "model", ast.Def: "function", ast.Const: "const"}
            return [Item(place.tree.name, kinds[type(place.tree)], 0, signature(place)) for place in places]
        scope = self.scope()
        symbol = scope.find(name) if scope is not None else None
        for value in self.analysis.values_of(symbol) if symbol is not None else ():
            fields = value.fields if isinstance(value, Record) else value.names if isinstance(value, Instance) else None
            if fields:
                return [Item(member, "member", 0, value_text(item)) for member, item in fields.items()]
        return []


def resolve(analysis: Analysis, label: str) -> tuple[str | None, str | None]:
    """(signature, comment) of a proposal, looked up when it is shown: parsing all of the prelude takes too long."""
    place = analysis.definition(label) if analysis.file is not None else prelude_place(label)
    if place is None:
        return None, None
    return signature(place), "\n\n".join(comment(place)) or None


