"""The canonical form of a `.net` file: one method a rule of the grammar, from the rule's tokens to a document.

What the writer decides: where a pipe breaks (its rows are often a model's stages), blank lines within a body (one at
most), comments, brackets that group. Everything else follows from the program.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..lalr import Tree
from ..parser import Parsed
from .doc import HARD, WIDTH, Align, Concat, Doc, Fill, Flat, Group, Here, Line, Nest, Row, Text, line_end, render
from .trivia import Tokens

INDENT = 4
FAR = 60                    # a bracket or pipe that opens further right does not align what follows with itself
COMMENT_COLUMN = 51         # where a comment behind shorter code begins
REPORTS = ("loss", "metric")
OPERATORS = ("binary", "compare", "and", "or", "conditional")
LEVELS = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "@": 2, "**": 3}


def text(*words: str) -> Concat:
    return Concat(map(Text, words))


class Style:
    """The formatter of one file: fills `rows` from the first token to the last."""

    def __init__(self, parsed: Parsed):
        self.tokens = Tokens(parsed)
        self.rows: list[Row] = []
        self.depth = 0                      # of brackets: inside of them lines break anywhere
        self.hang = INDENT                  # of what goes on in the next line; more where a block follows
        self.last_list: Doc | None = None   # the bracketed list that was built last
        self.starts = {token.start_pos: i for i, token in enumerate(self.tokens.tokens)}

    # ---- lines ------------------------------------------------------------------------------------------------------

    def file(self, tree: Tree) -> list[Row]:
        before = None
        for item in tree.children:
            one = before is not None and (item.data != before or before not in ("import", "const"))
            self.lead(0, "none" if before is None else "one" if one else "keep")
            getattr(self, "top_" + item.data)(item)
            before = item.data
        wanted = "keep" if before in ("import", "const") else "one"
        self.comments(0, self.tokens.own_comments(), wanted)
        return self.rows

    def lead(self, indent: int, blank: str) -> None:
        """The comments before a statement, and the blank line before them: "one", "none", or "keep" the writer's."""
        blank = self.comments(indent, self.tokens.own_comments(), blank)
        if blank == "one" or (blank == "keep" and self.tokens.blank[self.tokens.at]):
            self.rows.append(Row(""))

    def comments(self, indent: int, comments: Iterable, blank: str = "keep") -> str:
        for comment in comments:
            if self.rows and (blank == "one" or (blank == "keep" and comment.blank)):
                self.rows.append(Row(""))
            self.rows.append(Row("", comment.text, indent))
            blank = "keep"
        return blank

    def line(self, doc: Doc, indent: int, block: Tree | None = None) -> None:
        """A logical line with the comment behind it, and the block that it opens; more comments go below it."""
        rows = render(doc, indent)
        comments: list = self.tokens.end_of_line() or [None]
        first, *more = comments
        rows[-1].comment = first
        below = indent if block is None else indent + INDENT
        if more and not below:
            more.insert(0, None)            # a blank line, as there is one before the comments of the next item
        self.rows += [*rows, *(Row("", comment, below) for comment in more)]
        if block is not None:
            self.block(block, below)

    def block(self, tree: Tree, indent: int) -> None:
        """The statements of a block, and the comments at its end that stand as far in as it does."""
        column = self.tokens.columns[self.tokens.at]
        pads: dict[int, tuple[int, int]] = {}
        for i, statement in enumerate(tree.children):
            self.lead(indent, "keep" if i else "none")
            if statement.data in REPORTS and i not in pads:
                pads.update(self.columns_of_reports(tree.children, i))
            self.statement(statement, indent, pads.get(i))
        self.comments(indent, self.tokens.own_comments(column))

    def columns_of_reports(self, statements: list[Tree], first: int) -> dict[int, tuple[int, int]]:
        """Widths of word and name in a run of losses and metrics without a blank line, which stand as a table."""
        run = [first]
        for i in range(first + 1, len(statements)):
            at = self.starts[statements[i].start[0]]
            if statements[i].data not in REPORTS or self.tokens.blank[at] or any(c.blank for c in self.tokens.gaps[at]):
                break
            run.append(i)
        word = max(len(statements[i].data) for i in run)
        name = max(len(statements[i].children[0]) for i in run)
        return dict.fromkeys(run, (word, name))

    # ---- top level --------------------------------------------------------------------------------------------------

    def top_version(self, tree: Tree) -> None:
        self.line(text(self.take("_NET"), " ", self.take("NUMBER")), 0)

    def top_import(self, tree: Tree) -> None:
        words = [self.take(kind) for kind in ("_IMPORT", "STRING", "_AS", "NAME")]
        self.line(text(" ".join(words)), 0)

    def top_const(self, tree: Tree) -> None:
        _, annotation, value = tree.children
        head = text(self.take("_CONST"), " ", self.take("NAME"))
        self.line(Concat([head, self.typed(annotation), self.bound(value)]), 0)

    def top_def(self, tree: Tree) -> None:
        _, parameters, body, *rules = tree.children
        one_line = body.data != "block"
        self.hang = INDENT if one_line else 2 * INDENT
        head = Concat([text(self.take("_DEF"), " ", self.take("NAME")), self.parameters(parameters)])
        if one_line:
            self.line(Concat([head, self.bound(body)]), 0, rules[0] if rules and rules[0].children else None)
        else:
            self.line(Concat([head, self.colon()]), 0, body)

    def top_model(self, tree: Tree) -> None:
        _, first, second, result, body = tree.children
        self.hang = 2 * INDENT
        head = text(self.take("_MODEL"), " ", self.take("NAME"))
        parts = [self.parameters(first)]
        if second is not None:
            parts += [self.gap(Concat(())), self.parameters(second)]
        if result is not None:
            parts.append(Group(Concat([self.gap(Line()), text(self.take("ARROW"), " "), self.expression(result)])))
        parts.append(self.colon())
        on_one_line = Concat([head, *parts])
        if second is not None and not on_one_line.forced:
            parts.insert(1, HARD)
        self.line(Group(Here(on_one_line, lambda column, indent: Concat([head, Align(Concat(parts))]))), 0, body)

    def top_train(self, tree: Tree) -> None:
        self.line(Concat([text(self.take("_TRAIN"), " ", self.take("NAME")), self.colon()]), 0, tree.children[1])

    # ---- statements -------------------------------------------------------------------------------------------------

    def statement(self, tree: Tree, indent: int, pads: tuple[int, int] | None) -> None:
        if tree.data in ("if", "for", "scan"):
            self.hang = 2 * INDENT
            getattr(self, "on_" + tree.data)(tree, indent)
            return
        self.hang = INDENT
        if tree.data in REPORTS:
            word, name = pads
            head = text(self.take().ljust(word), " ", self.take("NAME").ljust(name))
            self.line(Concat([head, self.bound(tree.children[1])]), indent)
        else:
            self.line(getattr(self, "on_" + tree.data)(tree), indent)

    def on_assign(self, tree: Tree) -> Doc:
        return Concat([self.expression(tree.children[0]), self.bound(tree.children[1])])

    def on_return(self, tree: Tree) -> Doc:
        return Concat([text(self.take("_RETURN"), " "), self.value(tree.children[0])])

    def on_penalty(self, tree: Tree) -> Doc:
        return Concat([text(self.take("_PENALTY"), " "), self.value(tree.children[0])])

    def on_assert(self, tree: Tree) -> Doc:
        """The message does not count: no break of the condition makes it shorter."""
        condition, message = tree.children
        head = text(self.take("_ASSERT"), " ")
        condition = self.value(condition)
        if message is not None:
            if head.width + INDENT + condition.width < WIDTH:
                condition = Flat(condition)
            condition = Concat([condition, text(self.take("COMMA"), " ", self.take("STRING"))])
        return Concat([head, condition])

    def on_param(self, tree: Tree) -> Doc:
        _, annotation, initial = tree.children
        head = text(self.take(), " ", self.take("NAME"))
        return Concat([head, self.typed(annotation), *([self.bound(initial)] if initial is not None else [])])

    on_state = on_param

    def on_input(self, tree: Tree) -> Doc:
        return Concat([text(self.take("_INPUT"), " ", self.take("NAME")), self.typed(tree.children[1])])

    def on_if(self, tree: Tree, indent: int) -> None:
        condition, then, *elifs, otherwise = tree.children
        self.branch([condition, then], indent)
        for branch in elifs:
            self.lead(indent, "none")
            self.branch(branch.children, indent)
        if otherwise is not None:
            self.lead(indent, "none")
            self.line(Concat([text(self.take("_ELSE")), self.colon()]), indent, otherwise)

    def branch(self, children, indent: int) -> None:
        condition, block = children
        self.hang = 2 * INDENT
        self.line(Concat([text(self.take(), " "), self.value(condition), self.colon()]), indent, block)

    def on_for(self, tree: Tree, indent: int) -> None:
        targets, iterable, block = tree.children
        names = self.commas(targets.children, lambda name: text(self.take("NAME")))
        head = Concat([text(self.take("_FOR"), " "), names(), text(" ", self.take("_IN"), " ")])
        self.line(Concat([head, self.value(iterable), self.colon()]), indent, block)

    def on_scan(self, tree: Tree, indent: int) -> None:
        sources, axis, reverse, carries, collects, block = tree.children
        word = self.take("_SCAN")
        parts = [self.commas(sources.children, self.source)(), self.gap(Text(" ")),
                 text(self.take("_ALONG"), " "), self.expression(axis)]
        if reverse is not None:
            parts += [self.gap(Text(" ")), text(self.take("REVERSED"))]
        if carries is not None:
            parts += [self.gap(Line()), text(self.take("_CARRYING"), " "), self.commas(carries.children, self.carry)()]
        if collects is not None:
            parts += [self.gap(Line()), text(self.take("_COLLECTING"), " "),
                      self.commas(collects.children, self.collect)()]
        parts.append(self.colon())
        self.line(Concat([text(word, " "), Nest(2 * INDENT, Group(Concat(parts)))]), indent, block)

    def source(self, tree: Tree) -> Doc:
        return Concat([text(self.take("NAME"), " ", self.take("_IN"), " "), self.expression(tree.children[1])])

    def carry(self, tree: Tree) -> Doc:
        return Concat([text(self.take("NAME"), " ", self.take("EQUAL"), " "), self.expression(tree.children[1])])

    def collect(self, tree: Tree) -> Doc:
        words = [self.take("NAME")]
        if tree.children[1] is not None:
            words += [" ", self.take("_AS"), " ", self.take("NAME")]
        return text(*words)

    def commas(self, trees: list, build):
        """A function that takes items with commas between them, outside of brackets: they stay on one line."""
        def take() -> Doc:
            parts: list[Doc] = []
            for tree in trees:
                if parts:
                    parts.append(text(self.take("COMMA"), " "))
                parts.append(build(tree))
            return Concat(parts)
        return take

    # ---- pieces -----------------------------------------------------------------------------------------------------

    def take(self, kind: str | None = None) -> str:
        return self.tokens.take(kind)

    def colon(self) -> Doc:
        return text(self.take("COLON"))

    def gap(self, otherwise: Doc) -> Doc:
        """A place where the line may end: it does where a comment stands, else `otherwise`."""
        trail, own = self.tokens.gap()
        return line_end(trail, own) if trail or own else otherwise

    def typed(self, annotation: Tree | None) -> Doc:
        """`: type`, or nothing."""
        return Concat([text(self.take("COLON"), " "), self.expression(annotation)] if annotation is not None else [])

    def bound(self, value: Tree) -> Doc:
        """` = value`."""
        return Concat([text(" ", self.take("EQUAL"), " "), self.value(value)])

    def parameters(self, tree: Tree) -> Doc:
        return self.list("LPAR", tree.children, "RPAR")

    def list(self, opening: str, items: list[Tree], closing: str, tuple_of_one: bool = False,
             optional: bool = False) -> Doc:
        """Items in brackets: on one line, or filled into lines that align behind the bracket or stand below it.

        `optional`: the brackets are not in the text, and are there only where the items take several lines.
        """
        first = "(" if optional else self.take(opening)
        self.depth += 1
        docs, leads = [], []
        for i, item in enumerate(items):
            trail, own = self.tokens.gap()
            leads.append(line_end(trail, own) if trail or own else None)
            doc = self.expression(item)
            if self.tokens.kind == "COMMA":
                self.take()
            last = i + 1 == len(items)
            docs.append(doc if last and not tuple_of_one else Concat([doc, Text(",")]))
        self.depth -= 1
        end = ")" if optional else self.take(closing)
        if not docs:
            return text(first, end)
        found = self.last_list = list_doc(first, Fill(docs, leads), end, self.hang, optional)
        return found

    # ---- values -----------------------------------------------------------------------------------------------------

    def value(self, tree: Tree) -> Doc:
        """What a statement binds or gives. Brackets around all of it are there only where it takes several lines."""
        brackets = 0
        while tree.data == "brackets" and tree.children and tree.children[0].data != "tuple":
            self.take("LPAR")
            tree, brackets = tree.children[0], brackets + 1
        if tree.data in OPERATORS and not is_power(tree):
            doc = self.operation(tree)
        elif tree.data == "tuple":
            doc = self.list("", tree.children, "", len(tree.children) == 1, optional=True)
        else:
            doc = self.expression(tree)
        for _ in range(brackets):
            self.take("RPAR")
        return doc

    def operation(self, tree: Tree) -> Doc:
        """An expression of operators: bracketed and broken before them, or broken in the brackets that it ends with."""
        start = self.tokens.state()
        self.depth += 1
        bracketed = self.expression(tree)
        self.depth -= 1
        waiting = len(self.tokens.waiting)
        end = self.tokens.state()
        self.tokens.restore(start)
        self.last_list = None
        plain = self.expression(tree)
        if len(self.tokens.waiting) > waiting:       # a comment has its place only in a line break before an operator
            self.tokens.restore(end)
            plain = bracketed
            before = WIDTH
        elif tree.data == "conditional" or not ends_with_list(tree):
            before = WIDTH
        else:
            before = plain.width - self.last_list.width     # type: ignore[attr-defined]  # `expression` has set it
        hang = self.hang

        def broken(column: int, indent: int) -> Doc:
            if column + before < FAR:
                return plain
            if column < FAR:
                return Concat([Text("("), Align(bracketed), Text(")")])
            return Concat([Text("("), Nest(hang, Concat([HARD, bracketed])), Text(")")])
        return Group(Here(plain, broken))

    # ---- expressions ------------------------------------------------------------------------------------------------

    def expression(self, tree: Tree) -> Doc:
        return getattr(self, "on_" + tree.data)(tree)

    def on_name(self, tree: Tree) -> Doc:
        return text(self.take("NAME"))

    def on_number(self, tree: Tree) -> Doc:
        return text(number(self.take("NUMBER")))

    def on_string(self, tree: Tree) -> Doc:
        return text(self.take("STRING"))

    def on_true(self, tree: Tree) -> Doc:
        return text(self.take("_TRUE"))

    def on_false(self, tree: Tree) -> Doc:
        return text(self.take("_FALSE"))

    def on_none(self, tree: Tree) -> Doc:
        return text(self.take("_NONE").lower())

    def on_ellipsis(self, tree: Tree) -> Doc:
        return text(self.take("_ELLIPSIS"))

    def on_brackets(self, tree: Tree) -> Doc:
        inner = tree.children[0] if tree.children else None
        if inner is None or inner.data == "tuple":
            items = inner.children if inner is not None else []
            return self.list("LPAR", items, "RPAR", len(items) == 1)
        opening = self.take("LPAR")
        self.depth += 1
        doc = self.expression(inner)
        self.depth -= 1
        return Concat([Text(opening), Align(doc), Text(self.take("RPAR"))])

    def on_tuple(self, tree: Tree) -> Doc:
        """Without brackets: left of `=`."""
        parts = [self.commas(tree.children, self.expression)()]
        if self.tokens.kind == "COMMA":
            comma = self.take("COMMA")
            parts.append(Text(comma if len(tree.children) == 1 else ""))
        return Concat(parts)

    def on_starred(self, tree: Tree) -> Doc:
        return Concat([Text(self.take("STAR")), self.expression(tree.children[0])])

    def on_unary(self, tree: Tree) -> Doc:
        return Concat([Text(self.take()), self.expression(tree.children[1])])

    def on_not(self, tree: Tree) -> Doc:
        return Concat([text(self.take("_NOT"), " "), self.expression(tree.children[0])])

    def on_binary(self, tree: Tree) -> Doc:
        if is_power(tree):
            base, _, exponent = tree.children
            return Concat([self.expression(base), text(" ", self.take("POWER"), " "), self.expression(exponent)])
        operands, level = [], LEVELS[tree.children[1]]
        while isinstance(tree, Tree) and tree.data == "binary" and LEVELS[tree.children[1]] == level:
            operands.append(tree.children[2])
            tree = tree.children[0]
        return self.chain([tree, *reversed(operands)])

    def on_compare(self, tree: Tree) -> Doc:
        return self.chain([tree.children[0], tree.children[2]])

    def on_and(self, tree: Tree) -> Doc:
        return self.chain(tree.children)

    on_or = on_and

    def on_conditional(self, tree: Tree) -> Doc:
        operands = []
        while tree.data == "conditional":
            operands += tree.children[:2]
            tree = tree.children[2]
        return self.chain([*operands, tree])

    def chain(self, operands: list[Tree]) -> Doc:
        """Operands with words between them: on one line, or inside brackets each on a line after its operator."""
        parts = [self.expression(operands[0])]
        for operand in operands[1:]:
            parts.append(self.gap(Line()) if self.depth else Text(" "))
            parts += [text(self.take(), " "), self.expression(operand)]
        return Group(Align(Concat(parts))) if self.depth else Concat(parts)

    def on_pipe(self, tree: Tree) -> Doc:
        """`value |> stage |> stage`: broken where the writer broke it, and filled."""
        value, *stages = tree.children
        source = self.expression(value)
        docs, leads = [], []
        for stage in stages:
            broken = self.tokens.starts_row
            trail, own = self.tokens.gap()
            leads.append(line_end(trail, own) if broken or trail or own else None)
            docs.append(Concat([text(self.take("PIPE"), " "), self.expression(stage)]))
        fill, hang = Fill(docs, leads), self.hang

        def aligned(column: int, indent: int) -> Doc:
            if leads[0] is None and column + source.width < FAR:
                return Concat([source, Text(" "), Align(fill)])
            return Concat([source, Nest(hang, Concat([leads[0] or HARD, fill]))])
        on_one_line = Concat([source, leads[0] or Line(), fill])
        return Group(Here(on_one_line, aligned))

    # ---- postfix ----------------------------------------------------------------------------------------------------

    def on_call(self, tree: Tree) -> Doc:
        callee, *arguments = tree.children
        return Concat([self.expression(callee), self.list("LPAR", arguments, "RPAR")])

    def on_keyword(self, tree: Tree) -> Doc:
        return Concat([text(self.take("NAME"), " ", self.take("EQUAL"), " "), self.expression(tree.children[1])])

    def on_index(self, tree: Tree) -> Doc:
        value, *items = tree.children
        for item in items:
            if item.data == "none":
                item.data = "new_axis"
        return Concat([self.expression(value), self.list("LSQB", items, "RSQB")])

    def on_new_axis(self, tree: Tree) -> Doc:
        return text(self.take("_NONE").capitalize())

    def on_slice(self, tree: Tree) -> Doc:
        start, stop, step = tree.children
        parts = [self.expression(start)] if start is not None else []
        parts.append(self.colon())
        if stop is not None:
            parts.append(self.expression(stop))
        if self.tokens.kind == "COLON":
            colon = self.colon()
            parts += [colon, self.expression(step)] if step is not None else []
        return Concat(parts)

    def on_attribute(self, tree: Tree) -> Doc:
        return Concat([self.expression(tree.children[0]), text(self.take("DOT"), self.take("NAME"))])

    # ---- types and parameters ---------------------------------------------------------------------------------------

    def on_type(self, tree: Tree) -> Doc:
        name = Text(self.take("NAME"))
        dims = tree.children[1]
        return Concat([name, self.list("LSQB", dims.children, "RSQB")]) if dims is not None else name

    def on_tuple_type(self, tree: Tree) -> Doc:
        return self.list("LPAR", tree.children, "RPAR", len(tree.children) == 1)

    def on_outputs(self, tree: Tree) -> Doc:
        return self.list("LPAR", tree.children, "RPAR")

    def on_output(self, tree: Tree) -> Doc:
        return Concat([Text(self.take("NAME")), self.typed(tree.children[1])])

    def on_parameter(self, tree: Tree) -> Doc:
        star, _, annotation, default = tree.children
        parts: list[Doc] = [Text(self.take("STAR"))] if star is not None else []
        parts += [Text(self.take("NAME")), self.typed(annotation)]
        if default is not None:
            parts += [text(" ", self.take("EQUAL"), " "), self.expression(default)]
        return Concat(parts)


# ---- without state --------------------------------------------------------------------------------------------------


def list_doc(opening: str, items: Fill, closing: str, hang: int, optional: bool) -> Doc:
    lead = items.leads[0]
    inside = [*([lead] if lead else []), items]
    bracketed = Concat([Text(opening), *inside, Text(closing)])
    on_one_line = Concat(inside) if optional else bracketed
    widest = max(item.width for item in items.items) + len(closing)

    def broken(column: int, indent: int) -> Doc:
        column += len(opening)
        fits_below = column + widest > WIDTH >= indent + hang + widest
        if lead is None and column < FAR and not fits_below:
            return Concat([Text(opening), Align(items), Text(closing)])
        return Concat([Text(opening), Nest(hang, Concat([lead or HARD, items])), Text(closing)])
    return Group(Here(on_one_line, broken, bracketed))


def is_power(tree: Tree) -> bool:
    return tree.data == "binary" and tree.children[1] == "**"


def ends_with_list(tree: Tree) -> bool:
    """Whether an operation of two operands ends with brackets that can be broken."""
    if tree.data == "binary" and tree.children[0].data == "binary" and \
            LEVELS[tree.children[0].children[1]] == LEVELS[tree.children[1]]:
        return False
    if tree.data in ("and", "or") and len(tree.children) > 2:
        return False
    last = tree.children[-1]
    return last.data in ("call", "index") and len(last.children) > 1


def number(token: str) -> str:
    """Digits on both sides of a point, a small `e`."""
    mantissa, e, exponent = token.lower().partition("e")
    whole, point, fraction = mantissa.partition(".")
    return (f"{whole or 0}.{fraction or 0}" if point else whole) + e + exponent


def lines_of(rows: list[Row]) -> list[str]:
    """The rows as text. Comments behind code share a column in the whole file, those of neighbouring lines always."""
    lines: list[str] = []
    for i, row in enumerate(rows):
        if row.comment is None or not row.code:
            lines.append(row.code if row.comment is None else " " * row.indent + row.comment)
            continue
        column = max(COMMENT_COLUMN, *(len(rows[j].code) + 2 for j in neighbours(rows, i)))
        if column + len(row.comment) > WIDTH:
            column = len(row.code) + 2
        lines.append(row.code.ljust(column) + row.comment)
    return lines


def neighbours(rows: list[Row], i: int) -> range:
    """The rows around row i, itself included, that all have a comment behind code."""
    first, last = i, i + 1
    while first > 0 and rows[first - 1].code and rows[first - 1].comment is not None:
        first -= 1
    while last < len(rows) and rows[last].code and rows[last].comment is not None:
        last += 1
    return range(first, last)
