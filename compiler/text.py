"""The graph as text, and back: ``parse_graph(format_graph(g))`` gives the identical interned nodes.

    graph(%0, %1) -> (y: %3) {
      %0 = input "x" : f32[N, 64]
      %1 = param "dense.kernel" : f32[64, 10]
      %2 = contract([i, j] = sum[k < 64] %0[i, k] * %1[k, j]) : f32[N, 10]
      %3 = reduce(%2; axes=[1], kind="max") : f32[N]
    }

A line is ``name = operation : type``; ``#`` starts a comment.  Operations are written ``op(arguments; attributes)``,
leaves and constants by their own value, and ``contract`` as the formula that its index maps stand for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .ir import Graph, Node, node, topological
from .ops import PRIMITIVES
from .ops.contract import Index
from .types import DTYPES, Dim, DType, FloorDiv, Size, TensorType, TypeRuleError, symbols

LEAF_KEYS = {"input": "name", "param": "path", "state": "path", "local": "index"}
RESERVED = {"true", "false", "none", "inf", "nan", "graph", "sum", *DTYPES}
LETTERS = "ijklmnopqrstuvwxyzabcdefgh"


class TextError(ValueError):
    """The text is not a graph; the message gives the line."""


# --- printing ---------------------------------------------------------------------------------------------------


def format_graph(graph: Graph, comments: Mapping[Node, str] | None = None) -> str:
    """The text of a graph; ``comments`` adds a remark to the lines of some nodes."""
    return "\n".join(_graph_lines(graph, comments or {}))


def _graph_lines(graph: Graph, comments: Mapping[Node, str]) -> list[str]:
    order = topological((*graph.inputs, *graph.results))
    names = {current: f"%{number}" for number, current in enumerate(order)}
    inputs = ", ".join(names[leaf] for leaf in graph.inputs)
    outputs = ", ".join(f"{_output_name(name)}: {names[value]}" for name, value in graph.outputs.items())
    lines = [f"graph({inputs}) -> ({outputs}) {{"]
    for current in order:
        first, *rest = _operation_lines(current, names, comments)
        block = [f"{names[current]} = {first}", *rest]
        block[-1] += f" : {format_type(current.type)}"
        if current in comments:
            block[-1] += "  # " + " ".join(comments[current].split())
        lines += ["  " + line for line in block]
    return lines + ["}"]


def _operation_lines(current: Node, names: Mapping[Node, str], comments: Mapping[Node, str]) -> list[str]:
    """One line, or more where an attribute is a graph."""
    name = current.op.name
    if name in LEAF_KEYS:
        return [f"{name} {_value(current.attrs[LEAF_KEYS[name]])}"]
    if name == "constant":
        return [f"constant {_value(current.attrs['value'])}"]
    if name == "contract":
        return [f"contract({_formula(current, names)})"]
    args = ", ".join(names[arg] for arg in current.args)
    plain = [f"{key}={_value(value)}" for key, value in sorted(current.attrs.items()) if not isinstance(value, Graph)]
    inner = [(key, value) for key, value in sorted(current.attrs.items()) if isinstance(value, Graph)]
    head = f"{name}({args}" + ("; " if current.attrs else "") + ", ".join(plain)
    if not inner:
        return [head + ")"]
    lines = [head]
    for position, (key, body) in enumerate(inner):
        separator = ", " if plain or position else ""
        first, *rest = _graph_lines(body, comments)
        lines[-1] += f"{separator}{key}={first}"
        lines += rest
    lines[-1] += ")"
    return lines


def _output_name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]\w*|\d+", name, re.ASCII) else json.dumps(name)


def _value(value: Any) -> str:
    """An attribute's value."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (int, Dim)):
        return format_size(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, DType):
        return value.name
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    raise TypeError(f"an attribute of type {type(value).__name__} has no text")


def format_type(type_) -> str:
    """``f32[N, 64]``, or several in parentheses."""
    if isinstance(type_, tuple):
        return "(" + ", ".join(format_type(part) for part in type_) + ")"
    return f"{type_.dtype}[{', '.join(format_size(size) for size in type_.shape)}]"


def format_size(size: Size) -> str:
    """A size as an expression that reads back; unlike ``str`` it keeps floor divisions in parentheses."""
    if isinstance(size, int):
        return str(size)
    text = ""
    for monomial, coefficient in size.terms.items():
        factors = [_atom(atom) for atom in monomial]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        sign = "-" if coefficient < 0 else "+"
        text += (f" {sign} " if text else sign.strip("+")) + "*".join(factors)
    return text


def _atom(atom) -> str:
    if isinstance(atom, FloorDiv):
        return f"(({format_size(atom.numerator)})//{atom.divisor})"
    return atom if re.fullmatch(r"[A-Za-z_]\w*", atom, re.ASCII) and atom not in RESERVED else f"`{atom}`"


def _formula(current: Node, names: Mapping[Node, str]) -> str:
    """``[i, j] = sum[k < 64] %0[i, k] * %1[k, j]``: what a contraction's maps say."""
    rank, reduce, maps = current.type.rank, current.attrs["reduce"], current.attrs["maps"]
    letters = _letters(current, rank + len(reduce))
    text = f"[{', '.join(letters[:rank])}] = "
    if reduce:
        bounds = (f"{letter} < {format_size(size)}" for letter, size in zip(letters[rank:], reduce))
        text += f"sum[{', '.join(bounds)}] "
    factors = (f"{names[arg]}[{', '.join(_coordinate(index, letters) for index in places)}]"
               for arg, places in zip(current.args, maps))
    return text + " * ".join(factors)


def _letters(current: Node, count: int) -> list[str]:
    """Names for the indices of a contraction that no symbol in it has."""
    sizes = [*current.shape, *current.attrs["reduce"]]
    for index in (index for places in current.attrs["maps"] for index in places):
        sizes += [index.offset, *(coefficient for _, coefficient in index.terms)]
    taken = RESERVED.union(*map(symbols, sizes))
    candidates = [*LETTERS, *(f"i{number}" for number in range(count + len(taken)))]
    return [name for name in candidates if name not in taken][:count]


def _coordinate(index: Index, letters) -> str:
    place: Size = index.offset
    for which, coefficient in index.terms:
        place = place + Dim.symbol(letters[which]) * coefficient
    return format_size(place) if index.divisor == 1 else f"({format_size(place)})/{index.divisor}"


# --- parsing ----------------------------------------------------------------------------------------------------


TOKEN = re.compile(r"""(?P<space>(?:\s|\#[^\n]*)+) | (?P<string>"(?:[^"\\]|\\.)*") | (?P<symbol>`[^`]*`)
    | (?P<number>\d+(?:\.\d*)?(?:e[+-]?\d+)?) | (?P<node>%\d+) | (?P<name>[A-Za-z_]\w*)
    | (?P<mark>->|//|[{}()\[\],;:=+*/<-])""", re.VERBOSE | re.ASCII)


def parse_graph(text: str) -> Graph:
    """The graph that a text describes; raises TextError, naming the line, where it describes none."""
    reader = _Reader(text)
    graph = reader.graph()
    reader.expect("end")
    return graph


class _Reader:
    """A recursive-descent parser; it recurs into brackets and bodies only, lines are a loop."""

    def __init__(self, text: str):
        self.text = text
        self.position = 0
        self.advance()

    # tokens

    def advance(self) -> None:
        """Read the next token into ``kind``, ``token`` and ``start``."""
        while True:
            self.start = self.position
            if self.start == len(self.text):
                self.kind, self.token = "end", ""
                return
            match = TOKEN.match(self.text, self.start)
            if match is None:
                raise self.error(f"unexpected character {self.text[self.start]!r}")
            self.position = match.end()
            if match.lastgroup != "space":
                self.kind, self.token = str(match.lastgroup), match.group()
                return

    def error(self, message: str) -> TextError:
        return TextError(f"line {self.text.count(chr(10), 0, self.start) + 1}: {message}")

    def take(self, token: str) -> bool:
        """Skip a mark or name if it is next."""
        if self.token != token or self.kind not in ("mark", "name"):
            return False
        self.advance()
        return True

    def expect(self, wanted: str) -> str:
        """Skip what must be next: a mark or word itself, or a kind of token; the token."""
        token = self.token
        if self.kind != wanted and (token != wanted or self.kind not in ("mark", "name")):
            raise self.error(f"expected {wanted}, found {token or 'the end'}")
        if self.kind != "end":
            self.advance()
        return token

    def several(self, close: str, item) -> list:
        """``item, item ... close``."""
        found: list = []
        while not self.take(close):
            if found:
                self.expect(",")
            found.append(item())
        return found

    # graphs

    def graph(self) -> Graph:
        self.expect("graph")
        self.expect("(")
        inputs = self.several(")", lambda: self.expect("node"))
        self.expect("->")
        self.expect("(")
        outputs = self.several(")", self.output)
        self.expect("{")
        table: dict[str, Node] = {}
        while not self.take("}"):
            self.line(table)
        if len(dict(outputs)) != len(outputs):
            raise self.error("two outputs have the same name")
        return Graph(tuple(self.look_up(table, name) for name in inputs),
                     {name: self.look_up(table, value) for name, value in outputs})

    def output(self) -> tuple[str, str]:
        kind, token = self.kind, self.token
        if kind not in ("name", "number", "string"):
            raise self.error(f"expected an output's name, found {token}")
        self.advance()
        self.expect(":")
        return json.loads(token) if kind == "string" else token, self.expect("node")

    def look_up(self, table: Mapping[str, Node], name: str) -> Node:
        if name not in table:
            raise self.error(f"{name} is not defined")
        return table[name]

    def line(self, table: dict[str, Node]) -> None:
        """``%3 = operation : type``."""
        start = self.start
        name = self.expect("node")
        if name in table:
            raise self.error(f"{name} is defined twice")
        self.expect("=")
        op = self.expect("name")
        if op not in PRIMITIVES:
            raise self.error(f"there is no primitive {op}")
        make = self.operation(op, table)
        self.expect(":")
        type_ = self.type()
        try:
            made = make(type_)
        except (TypeRuleError, KeyError, TypeError) as error:
            self.start = start
            raise self.error(f"{op}: {error}") from error
        if made.type != type_:
            self.start = start
            raise self.error(f"{op} has the type {format_type(made.type)}, not {format_type(type_)}")
        table[name] = made

    def operation(self, op: str, table: Mapping[str, Node]):
        """Parse an operation; a function from its type to its node."""
        primitive = PRIMITIVES[op]
        if op in LEAF_KEYS:
            key = {LEAF_KEYS[op]: self.value()}
            return lambda type_: node(primitive, (), dtype=type_.dtype, shape=type_.shape, **key)
        if op == "constant":
            value = self.value()
            return lambda type_: node(primitive, (), dtype=type_.dtype, value=value)
        self.expect("(")
        if op == "contract":
            return self.formula(primitive, table)
        args: list[Node] = []
        while self.kind == "node":
            args.append(self.look_up(table, self.expect("node")))
            if not self.take(","):
                break
        attrs = {}
        if self.take(";"):
            attrs = dict(self.several(")", self.attribute))
        else:
            self.expect(")")
        return lambda _: node(primitive, args, **attrs)

    def attribute(self) -> tuple[str, Any]:
        name = self.expect("name")
        self.expect("=")
        return name, self.value()

    def formula(self, primitive, table: Mapping[str, Node]):
        """The inside of ``contract(...)``, see ``_formula``."""
        self.expect("[")
        letters = self.several("]", lambda: self.expect("name"))
        self.expect("=")
        reduce: list[Size] = []
        if self.take("sum"):
            self.expect("[")
            for letter, size in self.several("]", self.bound):
                letters.append(letter)
                reduce.append(size)
        numbers = {letter: number for number, letter in enumerate(letters)}
        args: list[Node] = []
        maps = []
        while not args or self.take("*"):
            args.append(self.look_up(table, self.expect("node")))
            self.expect("[")
            maps.append(tuple(self.several("]", lambda: self.coordinate(numbers))))
        self.expect(")")
        attrs = {"reduce": tuple(reduce), "maps": tuple(maps)}
        return lambda type_: node(primitive, args, shape=type_.shape, **attrs)

    def bound(self) -> tuple[str, Size]:
        letter = self.expect("name")
        self.expect("<")
        return letter, self.expression()

    def coordinate(self, numbers: Mapping[str, int]) -> Index:
        """An index: the letters' coefficients are read off the parsed polynomial."""
        place = self.expression()
        divisor = int(self.expect("number")) if self.take("/") else 1
        terms = []
        for letter, number in numbers.items():
            if letter in symbols(place):
                coefficient = _coefficient(place, letter)
                place = place - Dim.symbol(letter) * coefficient
                terms.append((number, coefficient))
        return Index(tuple(sorted(terms, key=lambda term: term[0])), place, divisor)

    # types and values

    def type(self):
        if self.take("("):
            return tuple(self.several(")", self.type))
        dtype = DTYPES.get(self.token)
        if dtype is None:
            raise self.error(f"expected a type, found {self.token}")
        self.advance()
        self.expect("[")
        return TensorType(dtype, tuple(self.several("]", self.expression)))

    def value(self) -> Any:
        """Anything that ``_value`` prints, or a graph."""
        token = self.token
        if self.kind == "string":
            self.advance()
            return json.loads(token)
        if self.kind == "name" and token in RESERVED - {"inf", "nan"}:
            if token == "graph":
                return self.graph()
            self.advance()
            return DTYPES.get(token, {"true": True, "false": False}.get(token))
        if self.take("["):
            return tuple(self.several("]", self.value))
        return self.expression()

    def expression(self):
        """A number, or a sum of products of numbers, symbols and floor divisions."""
        total = self.product()
        while True:
            if self.take("+"):
                total = total + self.product()
            elif self.take("-"):
                total = total - self.product()
            else:
                return total

    def product(self):
        total = self.factor()
        while self.take("*"):
            total = total * self.factor()
        return total

    def factor(self):
        kind, token = self.kind, self.token
        if self.take("-"):
            return -self.factor()
        if self.take("("):
            inner = self.expression()
            if self.take("//"):
                inner = inner // int(self.expect("number"))
            self.expect(")")
            return inner // int(self.expect("number")) if self.take("//") else inner
        self.advance()
        if kind == "number":
            return int(token) if token.isdigit() else float(token)
        if token in ("inf", "nan"):
            return float(token)
        if kind == "symbol" or kind == "name" and token not in RESERVED:
            return Dim.symbol(token.strip("`"))
        raise self.error(f"expected a value, found {token or 'the end'}")


def _coefficient(place: Dim, letter: str) -> Size:
    """The coefficient of a letter that occurs in first degree."""
    return place.substitute({letter: 1}) - place.substitute({letter: 0}) if isinstance(place, Dim) else 0
