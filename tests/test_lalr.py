"""The machine that runs the grammar's tables does what Lark does with them."""

from __future__ import annotations

import functools
from pathlib import Path

import lark
import pytest

from netc.compiler.lalr import Cursor, Token
from netc.compiler.parser import Parsed, parse_stages
from netc.compiler.tables import load_grammar, tables

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
lark_parser = functools.cache(load_grammar)


def lark_tokens(text: str):
    """What Lark's lexer makes of a text; ``Lark.lex`` would build the lexer anew, which takes a second."""
    return lark.lexer.LexerThread.from_text(lark_parser().parser.lexer, text).lex(None)


def lark_tree(parsed: Parsed):
    """Lark's own tree of the tokens of a text."""
    cursor = lark_parser().parse_interactive()
    for token in (token for line in parsed.lines for token in (*line.lead, *line.tokens)):
        cursor.feed_token(lark.Token(token.type, str(token), token.start_pos, token.line, token.column, token.end_line,
                                     token.end_column, token.end_pos))
    return cursor.feed_eof()


def described(tree, lark_made: bool):
    """A tree as nested tuples: rule, place, children."""
    if tree is None:
        return None
    if isinstance(tree, str):
        return tree.type, str(tree), tree.start_pos
    if lark_made:
        meta = tree.meta
        place = None if meta.empty else (meta.start_pos, meta.line, meta.column, meta.end_pos, meta.end_line,
                                         meta.end_column)
    else:
        place = tree.start and (*tree.start, *tree.end)
    return str(tree.data), place, [described(child, lark_made) for child in tree.children]


@pytest.mark.parametrize("path", [*sorted((ROOT / "grammar" / "prelude").glob("*.net")),
                                  *sorted((ROOT / "examples").glob("*.net")), HERE / "syntax" / "language.net"],
                         ids=lambda path: path.name)
def test_the_tree_is_larks(path):
    parsed = parse_stages(path.read_bytes(), path.name)
    assert described(parsed.concrete, False) == described(lark_tree(parsed), True)
    flat = [(token.type, str(token), token.start_pos, token.line, token.column, token.end_line, token.end_column,
             token.end_pos) for token in lark_tokens(parsed.source.text)]
    assert flat == [(token.type, str(token), token.start_pos, token.line, token.column, token.end_line,
                     token.end_column, token.end_pos) for token in tables().tokens(parsed.source.text)]


@pytest.mark.parametrize("tokens", [[], ["_NET", "NUMBER", "_NEWLINE"],
                                    ["_NET", "NUMBER", "_NEWLINE", "_MODEL", "NAME", "LPAR"],
                                    ["_NET", "NUMBER", "_NEWLINE", "_CONST", "NAME", "EQUAL", "NAME"]], ids=" ".join)
def test_what_fits_next_is_what_lark_says(tokens):
    theirs, ours = lark_parser().parse_interactive(), Cursor(tables())
    for kind in tokens:
        theirs.feed_token(lark.Token(kind, "x", 0, 1, 1, 1, 2, 1))
        assert ours.feed(Token(kind, "x", 0, 1, 1, 1, 2, 1))
    assert ours.accepts() == theirs.accepts()
