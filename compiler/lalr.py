"""The machine that runs the grammar's tables: texts to tokens, tokens to a concrete tree.

Lark makes the tables (`tables.py`); they are plain data beside the grammar, so that to parse a text takes no Lark,
whose import and work on the grammar take longer.  The trees are those that Lark would make.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from ..runtime.records import dataclass

END = "$END"
PLACEHOLDER = -1        # in a rule's parts: the None that stands for an optional part that is not there


class Token(str):
    """A piece of the text; places count from 1, positions (`start_pos`, `end_pos`) from 0."""

    __slots__ = ("type", "start_pos", "line", "column", "end_line", "end_column", "end_pos")

    type: str
    start_pos: int
    line: int
    column: int
    end_line: int
    end_column: int
    end_pos: int

    def __new__(cls, type: str, text: str, start_pos: int, line: int, column: int, end_line: int, end_column: int,
                end_pos: int) -> Token:
        made = str.__new__(cls, text)
        made.type, made.start_pos, made.line, made.column = type, start_pos, line, column
        made.end_line, made.end_column, made.end_pos = end_line, end_column, end_pos
        return made

    def retyped(self, type: str, text: str | None = None) -> Token:
        """A token of another type, and maybe of another text, at the same place."""
        return Token(type, str(self) if text is None else text, self.start_pos, self.line, self.column, self.end_line,
                     self.end_column, self.end_pos)

    def __repr__(self) -> str:
        return f"Token({self.type!r}, {str(self)!r})"


Place = tuple[int, int, int]        # position, line, column


class Tree:
    """What a rule matched: ``data`` names the rule, ``children`` are Trees, Tokens and None.

    ``start`` and ``end`` are those of everything that the rule matched, punctuation included; None where it matched
    nothing.  A rule that stands for its only child gives that child, whose own place is then within ``outer``.
    """

    __slots__ = ("data", "children", "start", "end", "outer")

    def __init__(self, data: str, children: list):
        self.data, self.children = data, children
        self.start: Place | None = None
        self.end: Place | None = None
        self.outer: tuple[Place, Place] | None = None

    def __repr__(self) -> str:
        return f"Tree({self.data!r}, {self.children!r})"

    def subtrees(self) -> Iterator[Tree]:
        """Every tree once, children before parents, without recursion."""
        found: dict[int, Tree] = {}
        pending = [self]
        for tree in pending:
            if id(tree) not in found:
                found[id(tree)] = tree
                pending += [child for child in reversed(tree.children) if isinstance(child, Tree)]
        return reversed(found.values())


@dataclass(frozen=True)
class Rule:
    """How many values a rule takes off the stack, and what they become.

    ``origin``: what the parser then sees; ``name``: of the Tree; ``parts``: which of the values become its children
    (PLACEHOLDER: none, but None), and whether that value's children do so in its place; ``is_inline``: a tree of one
    child is that child.
    """

    size: int
    origin: str
    name: str
    parts: tuple[tuple[int, bool], ...]
    is_inline: bool

    def __call__(self, values: list) -> Any:
        children: list = []
        for index, is_spread in self.parts:
            if index == PLACEHOLDER:
                children.append(None)
            elif not is_spread:
                children.append(values[index])
            elif children:
                children += values[index].children
            else:
                children = values[index].children       # it grows as the parser goes on, without a copy at each step
        made = children[0] if self.is_inline and len(children) == 1 else Tree(self.name, children)
        if isinstance(made, Tree):
            _locate(made, values)
        return made


def _locate(tree: Tree, values: list) -> None:
    """Give a tree the place of the values that a rule took for it."""
    first = next(filter(None, map(_extent, values)), None)
    last = next(filter(None, map(_extent, reversed(values))), None)
    if first is None or last is None:
        return
    if tree.outer is None:
        tree.start, tree.end = first[0], last[1]
    tree.outer = first[0], last[1]


def _extent(value: Tree | Token) -> tuple[Place, Place] | None:
    if isinstance(value, Tree):
        return value.outer
    return (value.start_pos, value.line, value.column), (value.end_pos, value.end_line, value.end_column)


@dataclass(frozen=True)
class Tables:
    """``pattern`` matches any token, in a group of its type's name, at any place of any text; those of ``ignored`` are
    dropped.  ``states[state][type]`` is the next state, or ~rule for the rule that is complete there; types of tokens
    are in capitals, those of rules (their ``origin``) are not."""

    pattern: str
    ignored: frozenset[str]
    states: list[dict[str, int]]
    rules: list[Rule]
    first: int
    last: int

    @cached_property
    def _match(self):
        return re.compile(self.pattern).match

    def tokens(self, text: str) -> list[Token]:
        """The flat tokens of a text, comments and layout aside."""
        found: list[Token] = []
        match, ignored = self._match, self.ignored
        at, line, line_start = 0, 1, 0          # line_start: the position of the line's first character
        while at < len(text):
            token = match(text, at)
            kind, end = token.lastgroup, token.end()
            column, first_line, piece = at - line_start + 1, line, token[0]
            if "\n" in piece:
                line += piece.count("\n")
                line_start = at + piece.rindex("\n") + 1
            if kind not in ignored:
                found.append(Token(kind, piece, at, first_line, column, line, end - line_start + 1, end))
            at = end
        return found


class Cursor:
    """The state of a parse, fed with one token at a time."""

    __slots__ = ("_tables", "_states", "_values")

    def __init__(self, tables: Tables, states: list[int] | None = None, values: list | None = None):
        self._tables = tables
        self._states = [tables.first] if states is None else states
        self._values: list = [] if values is None else values

    def copy(self) -> Cursor:
        """Another one at the same place; the trees that are made so far belong to both."""
        return Cursor(self._tables, self._states.copy(), self._values.copy())

    def feed(self, token: Token) -> bool:
        """Take a token, unless it does not fit; then nothing but a copy is of use any more."""
        tables, states, values = self._tables, self._states, self._values
        while True:
            action = tables.states[states[-1]].get(token.type)
            if action is None:
                return False
            if action >= 0:
                states.append(action)
                values.append(token)
                return True
            rule = tables.rules[~action]
            taken: list = []
            if rule.size:
                taken = values[-rule.size:]
                del values[-rule.size:], states[-rule.size:]
            values.append(rule(taken))
            states.append(tables.states[states[-1]][rule.origin])
            if token.type == END and states[-1] == tables.last:
                return True

    def finish(self) -> Tree:
        """The tree of all tokens, which must be a whole text's."""
        if not self.feed(Token(END, "", 0, 1, 1, 1, 1, 0)):
            raise ValueError("the text is not at its end")
        return self._values[-1]

    def accepts(self) -> set[str]:
        """The types of tokens that fit."""
        return {kind for kind in self._tables.states[self._states[-1]] if kind.isupper() and self._fits(kind)}

    def _fits(self, kind: str) -> bool:
        """As ``feed``, without trees."""
        tables, states = self._tables, self._states.copy()
        while True:
            action = tables.states[states[-1]].get(kind)
            if action is None or action >= 0:
                return action is not None
            rule = tables.rules[~action]
            if rule.size:
                del states[-rule.size:]
            states.append(tables.states[states[-1]][rule.origin])
            if kind == END and states[-1] == tables.last:
                return True
