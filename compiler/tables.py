"""The grammar's tables: made by Lark, kept in the cache."""

from __future__ import annotations

import functools
import marshal
import sys
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime import cache
from .lalr import PLACEHOLDER, Rule, Tables

if TYPE_CHECKING:
    from lark import Lark

GRAMMAR = Path(__file__).resolve().parent.parent / "grammar" / "net.lark"


@functools.cache
def tables() -> Tables:
    """The tables, made on first use and once a process; to read them from the cache takes a hundredth of the time of
    making them."""
    key = cache.key_of("grammar tables", sys.version, GRAMMAR.read_bytes(), Path(__file__).read_bytes(),
                       Path(__file__).with_name("lalr.py").read_bytes())
    kept = cache.get(key)
    if kept is not None:
        pattern, ignored, states, rules, first, last = marshal.loads(kept)
        return Tables(pattern, frozenset(ignored), states, [Rule(*rule) for rule in rules], first, last)
    made = make_tables()
    cache.put(key, marshal.dumps((made.pattern, sorted(made.ignored), made.states, list(map(astuple, made.rules)),
                                  made.first, made.last)))
    return made


def make_tables() -> Tables:
    """The tables, made anew."""
    from lark.parsers.lalr_analysis import Shift
    made = load_grammar()
    frontend: Any = made.parser
    table, lexer = frontend.parser._parse_table, frontend.lexer.lexer
    numbers: dict[Any, int] = {}
    states = [{str(name): target if action is Shift else ~numbers.setdefault(target, len(numbers))
               for name, (action, target) in table.states[state].items()} for state in range(len(table.states))]
    pattern = "|".join(f"(?P<{terminal.name}>{terminal.pattern.to_regexp()})" for terminal in lexer.terminals)
    return Tables(pattern, frozenset(map(str, lexer.ignore_types)), states, list(map(_rule, numbers)),
                  table.start_states["start"], table.end_states["start"])


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
