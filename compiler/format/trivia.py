"""The tokens of a text with the comments between them, taken one by one in the order of the text.

Comments belong to the gap before a token. The formatter asks for the comments of a gap where a line may end there
(`gap`); those of any other gap wait for the next one that may, or for the end of the statement. So none can be lost.
"""

from __future__ import annotations

import re
from itertools import chain

from ...runtime.records import dataclass
from ..diagnostics import TAB
from ..lalr import Token
from ..parser import Parsed

COMMENT = re.compile(r"#[^\n]*")


@dataclass(frozen=True)
class Comment:
    text: str
    column: int          # of its `#`, from 0
    own: bool            # has its line to itself
    blank: bool          # a blank line stands before it


class Tokens:
    """The cursor over a text's tokens. Indices are those of the token that comes next."""

    def __init__(self, parsed: Parsed):
        lines = [[token for token in line.tokens if token.type != "_NEWLINE"] for line in parsed.lines]
        self.tokens: list[Token] = list(chain.from_iterable(lines))
        self.blank: list[bool] = []                  # before each token: whether its line follows a blank one
        self.columns: list[int] = []
        self.gaps: list[list[Comment]] = []
        self.at = 0
        self.waiting: list[str] = []
        text, position, row, last = parsed.source.text, 0, 0, 0
        for token in [*self.tokens, None]:
            end = token.start_pos if token is not None else len(text)
            comments = []
            for found in COMMENT.finditer(text, position, end):
                row += text.count("\n", position, found.start())
                position = found.end()
                before = text[text.rfind("\n", 0, found.start()) + 1:found.start()]
                column = len(before.replace("\t", TAB))
                comments.append(Comment(found[0].rstrip(), column, not before.strip(), row > last + 1))
                last = row
            row += text.count("\n", position, end)
            self.gaps.append(comments)
            self.blank.append(row > last + 1)
            if token is not None:
                self.columns.append(token.column - 1)
                position, last = token.end_pos, row

    # -- tokens --

    @property
    def next(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    @property
    def kind(self) -> str:
        return self.tokens[self.at].type if self.at < len(self.tokens) else ""

    @property
    def starts_row(self) -> bool:
        """Whether the next token begins a line of the text."""
        return self.at > 0 and self.tokens[self.at].line != self.tokens[self.at - 1].end_line

    def take(self, kind: str | None = None) -> str:
        """The text of the next token, and on to the one after it."""
        token = self.tokens[self.at]
        assert kind is None or token.type == kind, f"{token!r} where {kind} was expected"
        self.waiting += [comment.text for comment in self._empty_gap()]
        self.at += 1
        return str(token)

    # -- comments --

    def _empty_gap(self) -> list[Comment]:
        comments, self.gaps[self.at] = self.gaps[self.at], []
        return comments

    def gap(self) -> tuple[list[str], list[str]]:
        """The comments before the next token: behind the code of the line that ends here, and on their own lines."""
        comments = self._empty_gap()
        trail = self.waiting + [comment.text for comment in comments if not comment.own]
        self.waiting = []
        return trail, [comment.text for comment in comments if comment.own]

    def end_of_line(self) -> list[str]:
        """The comments behind the last token of a statement, and those that found no place in it."""
        behind = [comment for comment in self.gaps[self.at] if not comment.own]
        self.gaps[self.at] = self.gaps[self.at][len(behind):]
        trail, self.waiting = self.waiting + [comment.text for comment in behind], []
        return trail

    def own_comments(self, column: int = 0) -> list[Comment]:
        """The comments before the next token, up to the first that stands left of `column`."""
        comments = self.gaps[self.at]
        count = next((i for i, comment in enumerate(comments) if comment.column < column), len(comments))
        self.gaps[self.at] = comments[count:]
        return comments[:count]

    # -- trying --

    def state(self):
        return self.at, list(self.waiting), self.gaps[:]

    def restore(self, state) -> None:
        at, waiting, gaps = state
        self.at, self.waiting, self.gaps = at, list(waiting), gaps[:]
