"""Random texts of the language, derived from the grammar itself, laid out at random and strewn with comments."""

from __future__ import annotations

import functools
import random

from netc.compiler.diagnostics import Diagnostics
from netc.compiler.syntax import parse
from netc.compiler.tables import load_grammar

NAMES = ["x", "y", "h", "N", "K", "units", "state", "loss", "model", "relu", "Dense", "a_rather_long_name", "along",
         "gradients",
         *(f"name_{i}" for i in range(60))]
WORDS = {"NAME": NAMES, "NUMBER": ["0", "1", "10_000", "0.5", ".5", "1.", "1e-3", "2.E5", "1"],
         "STRING": ['"a"', '"units is {units} \\" # no comment"']}
SIGNS = {"LPAR": "(", "RPAR": ")", "LSQB": "[", "RSQB": "]", "COLON": ":", "COMMA": ",", "DOT": ".", "EQUAL": "=",
         "PIPE": "|>", "ARROW": "->"}
MISPLACED = {"model": {"bare", "input", "loss", "metric"}, "def": {"bare", "input", "loss", "metric", "param", "state",
                                                                   "penalty"},
             "train": {"bare", "return", "param", "state", "scan"}}
COMMENTS = ["# one", "#two", "# a longer comment, (with brackets] and |> signs", "##", "# \"text\" = 1"]


grammar = functools.cache(load_grammar)


class Generator:
    """Texts from random derivations; equal seeds give equal texts."""

    def __init__(self, seed: int, deep: int = 14):
        self.random = random.Random(seed)
        self.deep = deep
        self.misplaced: set[str] = set()
        self.rules: dict[str, list] = {}
        for rule in grammar().rules:
            self.rules.setdefault(rule.origin.name, []).append(rule.expansion)
        self.patterns = {terminal.name: terminal.pattern for terminal in grammar().terminals}
        self.height = self._heights()

    def _heights(self) -> dict[str, int]:
        """The least depth of a derivation of each rule."""
        height = dict.fromkeys(self.rules, 10 ** 6)
        for _ in self.rules:
            for name, expansions in self.rules.items():
                height[name] = min(1 + max([height[s.name] for s in expansion if not s.is_term], default=0)
                                   for expansion in expansions)
        return height

    def derive(self, symbol: str, depth: int = 0) -> list[str]:
        """The kinds of tokens of a random derivation."""
        if symbol == "assign":
            names = ["NAME", *self.random.choice([[], [], ["COMMA", "NAME"]])]
            return [*names, "EQUAL", *self.derive("value", depth + 1)]
        expansions = [e for e in self.rules[symbol] if self.sensible(symbol, [part.name for part in e])]
        if depth > self.deep:
            least = min(self._height(expansion) for expansion in expansions)
            expansions = [expansion for expansion in expansions if self._height(expansion) == least]
        kinds = []
        for part in self.random.choice(expansions):
            kinds += [part.name] if part.is_term else self.derive(part.name, depth + 1)
        return kinds

    def sensible(self, symbol: str, parts: list[str]) -> bool:
        """Leaves out most of what the grammar allows and the tree refuses: else too few texts would parse."""
        if symbol == "parameter" and "STAR" in parts:
            return "EQUAL" not in parts and self.random.random() < 0.1
        if symbol == "postfix" and parts[1:] == ["LSQB", "RSQB"]:
            return False
        if "STAR" in parts and symbol == "item" or "ellipsis" in parts or (symbol == "argument" and "keyword" in parts):
            return self.random.random() < 0.15
        if "keyword" in parts or "starred" in parts:
            return self.random.random() < 0.15
        return not self.misplaced & set(parts)

    def _height(self, expansion) -> int:
        return max([self.height[s.name] for s in expansion if not s.is_term], default=0)

    def word(self, kind: str) -> str:
        if kind in WORDS:
            return self.random.choice(WORDS[kind])
        return SIGNS.get(kind) or self.patterns[kind].value.split("(?!")[0].replace("[nN]", "n").replace("\\", "")

    def layout(self, kinds: list[str], comments: bool) -> str:
        """The tokens as text: every break and blank that the language allows may be there."""
        chance = self.random.random
        indents, rows, line, depth = [0], [], "", 0
        for kind in kinds:
            if kind == "_NEWLINE":
                rows.append(line + (self.comment() if comments and chance() < 0.2 else ""))
                line = ""
            elif kind == "_INDENT":
                indents.append(indents[-1] + self.random.choice([1, 2, 4, 4, 8]))
            elif kind == "_DEDENT":
                indents.pop()
            elif not line:
                rows += self.between(comments)
                line = " " * indents[-1] + self.word(kind)
            else:
                if (depth > 0 or kind == "PIPE") and chance() < 0.15:
                    rows.append(line + (self.comment() if comments and chance() < 0.3 else ""))
                    rows += self.between(comments)
                    line = " " * (indents[-1] + self.random.randint(1, 30)) + self.word(kind)
                else:
                    line = self.append(line, self.word(kind))
            depth += {"LPAR": 1, "LSQB": 1, "RPAR": -1, "RSQB": -1}.get(kind, 0)
        return "\n".join(rows) + self.random.choice(["", "\n", "\n\n# end\n"])

    def append(self, line: str, word: str) -> str:
        """A space where two words would become one, and anywhere else perhaps."""
        glued = line and (line[-1].isalnum() or line[-1] in '_."') and (word[0].isalnum() or word[0] in '_."')
        signs = line and line[-1] in "*/-=<>!|" and word[0] in "*/-=<>|"
        return line + (" " * self.random.randint(1, 2) if glued or signs else " "
                       * self.random.choice([0, 0, 1, 1, 3])) + word

    def comment(self) -> str:
        return " " * self.random.randint(0, 4) + self.random.choice(COMMENTS)

    def between(self, comments: bool) -> list[str]:
        rows = []
        while self.random.random() < 0.25:
            rows.append(" " * self.random.randint(0, 12) + self.random.choice(COMMENTS) if comments
                        and self.random.random() < 0.5 else "")
        return rows

    def item(self, comments: bool = True, longest: int = 400) -> str:
        """One top-level statement that parses, with the version before it."""
        while True:
            symbol = self.random.choice(["const", "def", "train", "model", "model"])
            self.misplaced = MISPLACED.get(symbol, set())
            kinds = self.derive(symbol)
            if len(kinds) <= longest:
                text = "net 1\n" + self.layout(kinds, comments)
                try:
                    parse(text)
                except Diagnostics:
                    continue
                return text
