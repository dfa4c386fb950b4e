"""The language server: `netc lsp`, over standard input and output.

Texts are analysed when they have rested for a moment, and when a request needs them. All columns of the protocol are in
the client's units (UTF-16 as a rule), those of the compiler in characters.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

from lsprotocol import types as lsp
from pygls import uris
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer

from ... import __version__
from ...runtime.errors import NetcError
from .. import syntax as ast
from ..build.values import is_tensor
from ..diagnostics import Diagnostic, Diagnostics, Span
from ..format import format_text
from . import edits
from .analysis import Analysis
from .bindings import covers, walk
from .completion import complete, resolve
from .hover import code, hover, value_text

REST = 0.15          # seconds without a change after which a text is checked
MOST_FILES = 1_000   # of a workspace that are searched for uses of a name
SEVERITIES = {"error": lsp.DiagnosticSeverity.Error, "warning": lsp.DiagnosticSeverity.Warning,
              "note": lsp.DiagnosticSeverity.Information}
COMPLETION_KINDS = {
    lsp.CompletionItemKind.Class: ("model",), lsp.CompletionItemKind.Function: ("function",),
    lsp.CompletionItemKind.Property: ("setting",), lsp.CompletionItemKind.Module: ("import",),
    lsp.CompletionItemKind.Variable: ("input", "output", "value", "target"),
    lsp.CompletionItemKind.Field: ("parameter", "state", "member"),
    lsp.CompletionItemKind.File: ("file",), lsp.CompletionItemKind.Constant: ("const", "constant"),
    lsp.CompletionItemKind.TypeParameter: ("type", "dimension"), lsp.CompletionItemKind.Keyword: ("keyword",),
    lsp.CompletionItemKind.Event: ("loss", "metric")}
SYMBOL_KINDS = {
    lsp.SymbolKind.Class: ("model",), lsp.SymbolKind.Function: ("function",), lsp.SymbolKind.Constant: ("const",),
    lsp.SymbolKind.Module: ("import",), lsp.SymbolKind.Event: ("train",), lsp.SymbolKind.Field: ("parameter", "state"),
    lsp.SymbolKind.Variable: ("target",), lsp.SymbolKind.Property: ("loss", "metric")}


def kind_of(word: str, kinds: dict):
    """The protocol's kind for one of the compiler's words."""
    return next(kind for kind, words in kinds.items() if word in words)


class RequestFailed(JsonRpcException):
    """A request that is well formed and cannot be granted; the editor shows the message."""

    CODE = -32803


class Server(LanguageServer):
    """Holds the analysis of each open text; `features` are registered below."""

    def __init__(self):
        super().__init__("netc", __version__)
        self.analyses: dict[str, Analysis] = {}
        self.resting: dict[str, asyncio.TimerHandle] = {}

    # -- texts --

    def analysis(self, uri: str) -> Analysis:
        """The analysis of an open text as it is now."""
        document = self.workspace.get_text_document(uri)
        known = self.analyses.get(uri)
        if known is None or known.text != document.source:
            before = known if known is None or known.elaborated else known.before
            known = self.analyses[uri] = Analysis(document.source, path_of(uri), self.open_text, before)
        return known

    def open_text(self, path: str) -> str | None:
        """The text of a file that is open in the editor, saved or not."""
        for uri, document in self.workspace.text_documents.items():
            if path_of(uri) == path:
                return document.source
        return None

    def others(self, uri: str) -> list[Analysis]:
        """The other model files of the workspace, for what may be used in several."""
        own, found = path_of(uri), {}
        for folder in self.workspace.folders.values():
            root = Path(uris.to_fs_path(folder.uri) or "")
            for path in sorted(root.rglob("*.net"))[:MOST_FILES]:
                name = os.path.normpath(path)
                if name != own and not any(part.startswith(".") for part in path.relative_to(root).parts):
                    text = self.open_text(name)
                    text = path.read_text("utf-8", "replace") if text is None else text
                    found[name] = Analysis(text, name, self.open_text)
        return list(found.values())

    # -- checking --

    def changed(self, uri: str) -> None:
        """Checks a text, and those that import it, once it has rested."""
        if uri in self.resting:
            self.resting.pop(uri).cancel()
        self.resting[uri] = asyncio.get_running_loop().call_later(REST, partial(self.publish, uri))

    def publish(self, uri: str) -> None:
        self.resting.pop(uri, None)
        if uri not in self.workspace.text_documents:
            return
        self.publish_one(uri)
        for other, analysis in list(self.analyses.items()):
            if other != uri and path_of(uri) in analysis.inspection.read and other in self.workspace.text_documents:
                del self.analyses[other]
                self.publish_one(other)

    def publish_one(self, uri: str) -> None:
        analysis = self.analysis(uri)
        items = [self.diagnostic(analysis, item) for item in analysis.inspection.diagnostics]
        version = self.workspace.get_text_document(uri).version
        self.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(uri, items, version))

    def diagnostic(self, analysis: Analysis, item: Diagnostic) -> lsp.Diagnostic:
        """A diagnostic at its place, or, of an imported file, at the import."""
        span, related = item.span, list(item.related)
        if span is not None and span.file != analysis.path:
            related.insert(0, (item.message, span))
            span = import_of(analysis, span.file)
        related += [(f"in model {model}, called from here", place) for model, place in item.chain if place is not None]
        places = [lsp.DiagnosticRelatedInformation(self.location(place.file, place), text) for text, place in related]
        said = [item.message, f"expected: {item.expected}" if item.expected else "",
                f"found: {item.found}" if item.found else "", *item.notes, f"hint: {item.hint}" if item.hint else ""]
        return lsp.Diagnostic(
            range=self.range(span) if span is not None else lsp.Range(lsp.Position(0, 0), lsp.Position(0, 0)),
            message="\n".join(filter(None, said)), severity=SEVERITIES[item.severity], code=item.code, source="netc",
            tags=[lsp.DiagnosticTag.Unnecessary] if item.code == "E0205" else None, related_information=places or None)

    # -- places --

    def place(self, uri: str, position: lsp.Position) -> tuple[int, int]:
        """(line, column) of the compiler for a position of the client."""
        lines = self.workspace.get_text_document(uri).source.split("\n")
        found = self.workspace.position_codec.position_from_client_units(lines, position)
        return found.line + 1, found.character + 1

    def range(self, span: Span) -> lsp.Range:
        units = self.workspace.position_codec.client_num_units
        return lsp.Range(
            lsp.Position(span.line - 1, units(span.source.line(span.line)[:span.column - 1])),
            lsp.Position(span.end_line - 1, units(span.source.line(span.end_line)[:span.end_column - 1])))

    def location(self, path: str, span: Span) -> lsp.Location:
        return lsp.Location(uri_of(path), self.range(span))


def import_of(analysis: Analysis, path: str) -> Span | None:
    """The place where a file is imported, if that is done here."""
    folder = os.path.dirname(analysis.path)
    for item in analysis.file.imports if analysis.file is not None else ():
        if os.path.normpath(os.path.join(folder, item.path)) == path:
            return item.path_span
    return None


def path_of(uri: str) -> str:
    """The path of a file; a text without one is known under its address."""
    path = uris.to_fs_path(uri) if uri.startswith("file:") else None
    return os.path.normpath(path) if path else uri


def uri_of(path: str) -> str:
    if path.startswith("prelude/"):
        from ..prelude import PRELUDE
        path = str(PRELUDE / path.removeprefix("prelude/"))
    return (uris.from_fs_path(path) or path) if os.path.isabs(path) else path


server = Server()


# ---- texts ----------------------------------------------------------------------------------------------------------


@server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
async def did_open(ls: Server, params: lsp.DidOpenTextDocumentParams) -> None:
    ls.changed(params.text_document.uri)


@server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
async def did_change(ls: Server, params: lsp.DidChangeTextDocumentParams) -> None:
    ls.changed(params.text_document.uri)


@server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
async def did_save(ls: Server, params: lsp.DidSaveTextDocumentParams) -> None:
    ls.changed(params.text_document.uri)


@server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
async def did_close(ls: Server, params: lsp.DidCloseTextDocumentParams) -> None:
    uri = params.text_document.uri
    ls.analyses.pop(uri, None)
    ls.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(uri, []))


@server.feature(lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES)
async def did_change_watched_files(ls: Server, params: lsp.DidChangeWatchedFilesParams) -> None:
    paths = {path_of(change.uri) for change in params.changes}
    for uri, analysis in list(ls.analyses.items()):
        if paths & analysis.inspection.read:
            del ls.analyses[uri]
            ls.changed(uri)


# ---- looking --------------------------------------------------------------------------------------------------------


@server.feature(lsp.TEXT_DOCUMENT_HOVER)
def on_hover(ls: Server, params: lsp.HoverParams) -> lsp.Hover | None:
    uri = params.text_document.uri
    found = hover(ls.analysis(uri), *ls.place(uri, params.position))
    if found is None:
        return None
    return lsp.Hover(lsp.MarkupContent(lsp.MarkupKind.Markdown, found[0]), ls.range(found[1]))


@server.feature(lsp.TEXT_DOCUMENT_DEFINITION)
def on_definition(ls: Server, params: lsp.DefinitionParams) -> lsp.Location | None:
    uri = params.text_document.uri
    analysis = ls.analysis(uri)
    named = analysis.named(*ls.place(uri, params.position))
    if named is None or named.place is None:
        return _import_under(ls, analysis, *ls.place(uri, params.position))
    return ls.location(named.place.path, named.place.span)


def _import_under(ls: Server, analysis: Analysis, line: int, column: int) -> lsp.Location | None:
    """The start of a file whose path stands at a place."""
    for item in analysis.file.imports if analysis.file is not None else ():
        if covers(item.path_span, line, column) and item.name in analysis.imported:
            path, file = analysis.imported[item.name]
            return ls.location(path, file.version.span)
    return None


@server.feature(lsp.TEXT_DOCUMENT_REFERENCES)
def on_references(ls: Server, params: lsp.ReferenceParams) -> list[lsp.Location]:
    uri = params.text_document.uri
    named = ls.analysis(uri).named(*ls.place(uri, params.position))
    if named is None:
        return []
    places = edits.references(ls.analysis(uri), named, ls.others(uri))
    if not params.context.include_declaration and named.place is not None:
        places = [(path, span) for path, span in places if (path, span) != (named.place.path, named.place.span)]
    return [ls.location(path, span) for path, span in places]


@server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT)
def on_highlight(ls: Server, params: lsp.DocumentHighlightParams) -> list[lsp.DocumentHighlight]:
    uri = params.text_document.uri
    named = ls.analysis(uri).named(*ls.place(uri, params.position))
    places = edits.references(ls.analysis(uri), named) if named is not None else []
    return [lsp.DocumentHighlight(ls.range(span)) for _, span in places]


@server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
def on_symbols(ls: Server, params: lsp.DocumentSymbolParams) -> list[lsp.DocumentSymbol]:
    file = ls.analysis(params.text_document.uri).file
    return [_symbol(ls, entry) for entry in edits.outline(file)] if file is not None else []


def _symbol(ls: Server, entry: edits.Entry) -> lsp.DocumentSymbol:
    return lsp.DocumentSymbol(
        entry.name, kind_of(entry.kind, SYMBOL_KINDS), ls.range(entry.span), ls.range(entry.name_span),
        entry.detail or None, children=[_symbol(ls, child) for child in entry.children])


@server.feature(lsp.TEXT_DOCUMENT_INLAY_HINT)
def on_inlay_hint(ls: Server, params: lsp.InlayHintParams) -> list[lsp.InlayHint]:
    """The type behind each name that a body binds to a tensor."""
    analysis = ls.analysis(params.text_document.uri)
    hints = []
    first, last = params.range.start.line + 1, params.range.end.line + 1
    for target in walk(*analysis.file.items) if analysis.file is not None else ():
        if not isinstance(target, ast.Target) or not first <= target.span.line <= last:
            continue
        types = {value_text(value) for value in analysis.values.of(target) if is_tensor(value)}
        if len(types) == 1:
            hints.append(lsp.InlayHint(ls.range(target.span).end, f": {types.pop()}", lsp.InlayHintKind.Type))
    return hints


# ---- writing --------------------------------------------------------------------------------------------------------


@server.feature(lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions([".", "(", '"', ">"], resolve_provider=True))
def on_completion(ls: Server, params: lsp.CompletionParams) -> lsp.CompletionList:
    uri = params.text_document.uri
    items = complete(ls.analysis(uri), *ls.place(uri, params.position))
    return lsp.CompletionList(False, [lsp.CompletionItem(
        item.label, kind=kind_of(item.kind, COMPLETION_KINDS), detail=item.detail, insert_text=item.insert,
        sort_text=f"{item.group} {item.label}", data={"uri": uri, "definition": item.kind in ("model", "function")})
        for item in items])


@server.feature(lsp.COMPLETION_ITEM_RESOLVE)
def on_resolve(ls: Server, item: lsp.CompletionItem) -> lsp.CompletionItem:
    if item.data and item.data["definition"]:
        signature, comment = resolve(ls.analysis(item.data["uri"]), item.label)
        if signature is not None:
            text = "\n\n".join(filter(None, [code([signature]), comment]))
            item.documentation = lsp.MarkupContent(lsp.MarkupKind.Markdown, text)
    return item


@server.feature(lsp.TEXT_DOCUMENT_PREPARE_RENAME)
def on_prepare_rename(ls: Server, params: lsp.PrepareRenameParams) -> lsp.PrepareRenamePlaceholder:
    uri = params.text_document.uri
    try:
        named = edits.renamable(ls.analysis(uri), *ls.place(uri, params.position))
    except NetcError as error:
        raise RequestFailed(str(error)) from None
    return lsp.PrepareRenamePlaceholder(ls.range(named.span), named.name)


@server.feature(lsp.TEXT_DOCUMENT_RENAME, lsp.RenameOptions(prepare_provider=True))
def on_rename(ls: Server, params: lsp.RenameParams) -> lsp.WorkspaceEdit:
    uri = params.text_document.uri
    try:
        found = edits.rename(ls.analysis(uri), *ls.place(uri, params.position), params.new_name, ls.others(uri))
    except NetcError as error:
        raise RequestFailed(str(error)) from None
    changes: dict[str, list[lsp.TextEdit]] = {}
    for edit in found:
        target = uri if edit.path == path_of(uri) else uri_of(edit.path)
        changes.setdefault(target, []).append(lsp.TextEdit(ls.range(edit.span), edit.text))
    return lsp.WorkspaceEdit(changes=changes)


@server.feature(lsp.TEXT_DOCUMENT_FORMATTING)
def on_formatting(ls: Server, params: lsp.DocumentFormattingParams) -> list[lsp.TextEdit] | None:
    document = ls.workspace.get_text_document(params.text_document.uri)
    try:
        text = format_text(document.source, document.filename or "<text>")
    except Diagnostics:
        return None                      # its errors are shown already
    except NetcError as error:
        raise RequestFailed(str(error)) from None
    if text == document.source:
        return []
    rows = document.source.count("\n") + 1
    return [lsp.TextEdit(lsp.Range(lsp.Position(0, 0), lsp.Position(rows, 0)), text)]


@server.feature(lsp.TEXT_DOCUMENT_CODE_ACTION, lsp.CodeActionOptions([lsp.CodeActionKind.QuickFix]))
def on_code_action(ls: Server, params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
    """What the hint of a diagnostic proposes, as a change."""
    uri = params.text_document.uri
    analysis = ls.analysis(uri)
    actions = []
    for item in analysis.inspection.diagnostics:
        if item.span is None or item.span.file != analysis.path:
            continue
        place = ls.range(item.span)
        if place.start.line <= params.range.end.line and place.end.line >= params.range.start.line:
            for title, text in edits.fixes(item):
                change = lsp.WorkspaceEdit(changes={uri: [lsp.TextEdit(place, text)]})
                actions.append(lsp.CodeAction(title, lsp.CodeActionKind.QuickFix, [ls.diagnostic(analysis, item)],
                                              is_preferred=True, edit=change))
    return actions
