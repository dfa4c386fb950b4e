"""A Pygments lexer for `.net` files: highlighting in Sphinx, in notebooks, on the terminal.

Registered as an entry point of Pygments, so that everything which highlights by it knows the language `netc`.
"""

from __future__ import annotations

from pygments.lexer import RegexLexer, bygroups, default, include, words
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Text, Whitespace

# The words of the language; tests/test_highlighting.py holds them against the compiler's own.
RESERVED = ("if", "elif", "else", "for", "in", "and", "or", "not", "return")
CONSTANTS = ("true", "false", "none", "None", "training")
DECLARATIONS = ("param", "state", "input", "loss", "metric")
CLAUSES = ("along", "reversed", "carrying", "collecting", "as")
ELEMENT_TYPES = ("f32", "f64", "i32", "i64", "bool")
SETTING_TYPES = ("int", "float", "tuple", "function", "model", "str")
NAME = r"[A-Za-z_]\w*"
BEFORE_NAME = r"(?=[ \t]+[A-Za-z_])"
DIGITS = r"\d(?:_?\d)*"
EXPONENT = rf"[eE][+-]?{DIGITS}"


def declaration(words: str, kind) -> tuple:
    """The rule of a word at the start of a line, with the name that it declares."""
    return rf"^([ \t]*)({words})([ \t]+)({NAME})", bygroups(Whitespace, Keyword.Declaration, Whitespace, kind)


class NetLexer(RegexLexer):
    """The language of netc, version 1."""

    name = "netc"
    aliases = ["netc", "net"]
    filenames = ["*.net"]

    tokens = {
        "root": [
            (r"^([ \t]*)(net)([ \t]+)(\d+)", bygroups(Whitespace, Keyword.Namespace, Whitespace, Number.Integer)),
            (r"^([ \t]*)(import)(?=[ \t]+\")", bygroups(Whitespace, Keyword.Namespace), "import"),
            declaration("model|train", Name.Class),
            declaration("def", Name.Function),
            declaration("const", Name.Constant),
            declaration("|".join(DECLARATIONS), Name.Variable),
            (rf"^([ \t]*)(scan){BEFORE_NAME}", bygroups(Whitespace, Keyword), "scan"),
            # `penalty x`, `assert x`: words of statements, unless the line assigns to them or goes on as an expression.
            (r"^([ \t]*)(penalty|assert)\b(?![ \t]*(?:=(?!=)|,|\.|\[))", bygroups(Whitespace, Keyword)),
            include("expression"),
        ],
        "import": [
            (r"\n", Whitespace, "#pop"),
            (r"\bas\b", Keyword.Namespace),
            include("expression"),
        ],
        "scan": [
            (r":(?=[ \t]*(?:#.*)?$)", Punctuation, "#pop"),
            (r"[(\[]", Punctuation, "brackets"),
            (words(CLAUSES, prefix=r"\b", suffix=r"\b"), Keyword),
            include("expression"),
        ],
        "brackets": [
            (r"[(\[]", Punctuation, "#push"),
            (r"[)\]]", Punctuation, "#pop"),
            include("expression"),
        ],
        "expression": [
            (r"\n", Whitespace),                 # alone, so that what follows is at the start of a line
            (r"[^\S\n]+", Whitespace),
            (r"#.*$", Comment.Single),
            (r'"', String.Double, "string"),
            (rf"(?:{DIGITS})?\.{DIGITS}(?:{EXPONENT})?", Number.Float),
            (rf"{DIGITS}(?:\.(?!\.)(?:{EXPONENT})?|{EXPONENT})", Number.Float),
            (DIGITS, Number.Integer),
            (words(RESERVED, prefix=r"(?<![\w.])", suffix=r"\b"), Keyword),
            (words(CONSTANTS, prefix=r"(?<![\w.])", suffix=r"\b"), Keyword.Constant),
            (words(ELEMENT_TYPES, prefix=r"(?<![\w.])", suffix=r"\b"), Keyword.Type),
            (rf"(?<=: )(?:{'|'.join(SETTING_TYPES)})\b(?![ \t]*[(.\[])", Keyword.Type),
            (r"[A-Z]\w*(?=[ \t]*\()", Name.Class),
            (rf"{NAME}(?=[ \t]*\()", Name.Function),
            (NAME, Name),
            (r"\.\.\.", Punctuation),
            (r"\|>|->|\*\*|//|==|!=|<=|>=|[-+*/%@<>=]", Operator),
            (r"[()\[\]:,.]", Punctuation),
        ],
        "string": [
            (r'\\["\\nt]', String.Escape),
            (r"\{[^{}\n\"]*\}", String.Interpol),
            (r'[^"\\{\n]+|\{', String.Double),
            (r'"', String.Double, "#pop"),
            (r"(?=\n)", Text, "#pop"),
            default("#pop"),
        ],
    }

    def analyse_text(text: str) -> float:
        """Sure of a text that begins with the version, comments aside."""
        lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
        return 1.0 if next(lines, "").split("#")[0].split() == ["net", "1"] else 0.0
