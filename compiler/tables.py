"""The grammar's tables, as data beside the grammar: Lark makes them, and is not needed to read them.

``python -m netc.compiler.tables`` writes them, and the prelude's trees, anew after an edit of the grammar; until then
they do not fit it, and are made in each process that parses.
"""

from __future__ import annotations

import functools
import json
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime import cache
from .lalr import PLACEHOLDER, Rule, Tables

if TYPE_CHECKING:
    from lark import Lark

GRAMMAR = Path(__file__).resolve().parent.parent / "grammar" / "net.lark"
MADE = GRAMMAR.with_name("net.tables.json")


@functools.cache
def tables() -> Tables:
    """The tables of the grammar, once a process; to make them takes a hundred times as long as to read them."""
    kept = json.loads(MADE.read_text(encoding="utf-8"))
    if kept["grammar"] != _identity():
        return make_tables()
    rules = [Rule(size, origin, name, tuple(map(tuple, parts)), is_inline)
             for size, origin, name, parts, is_inline in kept["rules"]]
    return Tables(kept["pattern"], frozenset(kept["ignored"]), kept["states"], rules, kept["first"], kept["last"])


def write_tables() -> None:
    """Write the tables of the grammar as it is now, a state and a rule a line."""
    made = make_tables()
    head = {"grammar": _identity(), "pattern": made.pattern, "ignored": sorted(made.ignored), "first": made.first,
            "last": made.last}
    rows: dict[str, list] = {"rules": list(map(astuple, made.rules)), "states": made.states}
    parts = [f'"{name}": {json.dumps(value)}' for name, value in head.items()]
    parts += [f'"{name}": [\n' + ",\n".join(map(json.dumps, values)) + "\n]" for name, values in rows.items()]
    MADE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8", newline="\n")


def _identity() -> str:
    """The key of the grammar, whatever ends its lines."""
    return cache.key_of(GRAMMAR.read_text(encoding="utf-8"))


def make_tables() -> Tables:
    """The tables, made anew: the same for the same grammar."""
    from lark.parsers.lalr_analysis import Shift
    made = load_grammar()
    frontend: Any = made.parser
    table, lexer = frontend.parser._parse_table, frontend.lexer.lexer
    numbers: dict[Any, int] = {}
    states = [{str(name): target if action is Shift else ~numbers.setdefault(target, len(numbers))
               for name, (action, target) in table.states[state].items()} for state in range(len(table.states))]
    pattern = "|".join(f"(?P<{terminal.name}>{terminal.pattern.to_regexp()})" for terminal in lexer.terminals)
    return _numbered(Tables(pattern, frozenset(map(str, lexer.ignore_types)), states, list(map(_rule, numbers)),
                            table.start_states["start"], table.end_states["start"]))


def _numbered(made: Tables) -> Tables:
    """The tables with states and rules in the order in which they are reached: Lark's own changes from run to run."""
    order, states, rules = [made.first], {made.first: 0}, dict[int, int]()
    rows = []
    for state in order:
        row = {}
        for name, action in sorted(made.states[state].items()):
            if action < 0:
                row[name] = ~rules.setdefault(~action, len(rules))
                continue
            if action not in states:
                states[action] = len(order)
                order.append(action)
            row[name] = states[action]
        rows.append(row)
    return replace(made, states=rows, rules=[made.rules[rule] for rule in rules], first=0, last=states[made.last])


def _rule(rule: Any) -> Rule:
    """Lark's rule as plain data."""
    parts, at = [], 0
    for is_missing in rule.options.empty_indices or [False] * len(rule.expansion):
        if is_missing:
            parts.append((PLACEHOLDER, False))
            continue
        symbol = rule.expansion[at]
        if not (symbol.is_term and symbol.filter_out and not rule.options.keep_all_tokens):
            parts.append((at, not symbol.is_term and symbol.name.startswith("_")))
        at += 1
    return Rule(len(rule.expansion), str(rule.origin.name), str(rule.alias or rule.origin.name), tuple(parts),
                bool(rule.options.expand1 and not rule.alias))


def load_grammar(strict: bool = False) -> Lark:
    """Lark's parser of the grammar.  ``strict`` looks for rules and terminals that collide, which is a test's job."""
    import lark.lexer
    text = GRAMMAR.read_text(encoding="utf-8")

    class KeepBadTokens(lark.lark.PostLex):
        """Changes nothing. Makes Lark keep the terminals that no rule mentions, which stand for what is no token at
        all."""

        always_accept = ("BAD_NUMBER", "BAD_STRING", "BAD_CHARACTER")

        def process(self, stream):
            return stream
    # Where interegular is installed, Lark looks at terminals in any case, for three times as long as all else takes.
    found, lark.lexer.has_interegular = lark.lexer.has_interegular, strict and lark.lexer.has_interegular
    try:
        return lark.Lark(text, parser="lalr", lexer="basic", postlex=KeepBadTokens(), propagate_positions=True,
                         strict=strict)
    finally:
        lark.lexer.has_interegular = found


if __name__ == "__main__":
    from .prelude import write_trees
    write_tables()
    write_trees()
