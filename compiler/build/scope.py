"""Names and files: lexical scopes, the prelude, imports.

Scopes form a chain: builtins <- prelude <- a file's top level <- a model's or a function's body.  Files are elaborated
on demand: a definition of the prelude is parsed when its name is first used, a constant is computed when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ...runtime.cache import key_of
from .. import syntax
from ..diagnostics import Diagnostics
from ..prelude import prelude_definition, prelude_index
from .values import POISON, Fault, Function, ModelValue, Module, Poisoned

LARGEST_FILE = 4_000_000
_MISSING = object()


class Scope:
    """Names of one block of code, and the scope around it."""

    frame: Any = None                  # of a model's body: the call being elaborated
    closed = False                     # of a scan's body: names outside cannot be rebound
    is_lazy = False                    # whether ``own`` makes names that are not there yet

    def __init__(self, parent: Scope | None = None, names: dict | None = None):
        self.parent = parent
        self.names: dict[str, object] = dict(names or {})

    def find(self, name: str):
        """The value of a name here or further out; raises KeyError."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            if scope.is_lazy:
                value = scope.own(name)
                if value is not _MISSING:
                    return value
            scope = scope.parent
        raise KeyError(name)

    def knows(self, name: str) -> bool:
        """Whether the name can be seen from here."""
        return name in self.names or self.parent is not None and self.parent.knows(name)

    def own(self, name: str):
        return self.names.get(name, _MISSING)

    def known(self) -> Iterator[str]:
        """Every name that can be seen from here."""
        yield from self.names
        if self.parent is not None:
            yield from self.parent.known()

    def set(self, name: str, value) -> None:
        self.names[name] = value

    def shadows(self, name: str) -> bool:
        """Whether a scan's body would hide a name of the body around it."""
        scope = self
        while scope.closed and scope.parent is not None:
            scope = scope.parent
            if name in scope.names:
                return True
        return False


class FileScope(Scope):
    """The top level of one file: functions, models, constants and imports, computed when first used."""

    is_lazy = True

    def __init__(self, build, tree: syntax.File, parent: Scope, filename: str):
        super().__init__(parent)
        self.build, self.tree, self.filename = build, tree, filename
        self.items: dict = {}
        for item in tree.items:
            if not isinstance(item, syntax.Train) and item.name not in self.items:
                self.items[item.name] = item
        self.busy: set[str] = set()

    def known(self) -> Iterator[str]:
        yield from self.items
        yield from super().known()

    def knows(self, name: str) -> bool:
        return name in self.items or super().knows(name)

    def own(self, name: str):
        if name in self.names:
            return self.names[name]
        item = self.items.get(name)
        if item is None:
            return _MISSING
        if name in self.busy:
            raise Fault("const", f"the constant `{name}` is defined by itself", span=item.name_span)
        self.busy.add(name)
        try:
            self.names[name] = self._make(item)
        finally:
            self.busy.discard(name)
        return self.names[name]

    def _make(self, item):
        if isinstance(item, syntax.Def):
            return Function(item.name, item, self)
        if isinstance(item, syntax.Model):
            return ModelValue(item.name, item, self)
        try:
            if isinstance(item, syntax.Const):
                return self.build.constant_value(self, item)
            return self.build.files.imported(self, item)
        except Fault as fault:
            self.build.report(fault, item.span)
        except Poisoned:
            pass
        return POISON

    def check(self) -> None:
        """Computes every constant and import of the file, so that their mistakes are reported though unused."""
        for name in self.items:
            self.own(name)


class PreludeScope(Scope):
    """Every name of the prelude's files; a definition is parsed when its name is used."""

    is_lazy = True

    def __init__(self, build, parent: Scope):
        super().__init__(parent)
        self.build = build
        self.index = prelude_index()

    def known(self) -> Iterator[str]:
        yield from self.index
        yield from super().known()

    def knows(self, name: str) -> bool:
        return name in self.index or super().knows(name)

    def own(self, name: str):
        if name in self.names:
            return self.names[name]
        path = self.index.get(name)
        if path is None:
            return _MISSING
        self.names[name] = FileScope(self.build, prelude_definition(name), self, path).own(name)
        return self.names[name]


class Files:
    """Files that are reached by import: each is read once, and never outside the importing file's folder."""

    def __init__(self, build, loader=None):
        self.build, self.loader = build, loader
        self.scopes: dict[str, FileScope] = {}
        self.opening: list[str] = []

    def imported(self, scope: FileScope, item: syntax.Import):
        """The module that an import statement names."""
        path = self._resolve(scope, item)
        if path in self.opening:
            cycle = " -> ".join([os.path.basename(p) for p in self.opening[self.opening.index(path):]]
                                + [os.path.basename(path)])
            raise Fault("import-cycle", "these files import each other", span=item.path_span, found=cycle)
        if path not in self.scopes:
            self.build.sink.read.add(path)
            self.opening.append(path)
            try:
                tree = syntax.parse(self._read(path, item), path)
                self.scopes[path] = FileScope(self.build, tree, self.build.prelude, path)
                for name in tree.imports:
                    self.scopes[path].own(name.name)
            except Diagnostics as errors:
                note = f"imported at {item.path_span.where}"
                self.build.add_diagnostics([replace(error, notes=(*error.notes, note)) for error in errors])
                raise Poisoned from None
            finally:
                self.opening.pop()
        return Module(item.name, self.scopes[path])

    def opened(self, filename: str):
        """Marks the main file, so that a cycle back to it is found."""
        self.opening.append(os.path.normpath(filename))

    def _resolve(self, scope: FileScope, item: syntax.Import) -> str:
        path, span = item.path, item.path_span
        parts = path.replace("\\", "/").split("/")
        if not path.endswith(".net"):
            raise Fault("import", "only a .net file can be imported", span=span, found=f'"{path}"')
        if os.path.isabs(path) or "\\" in path or ":" in path or "\0" in path or path.startswith("~") or ".." in parts:
            raise Fault("import-outside", "an import must stay inside the folder of the importing file", span=span,
                        found=f'"{path}"', hint="use a path relative to this file, without `..`")
        return os.path.normpath(os.path.join(os.path.dirname(scope.filename), path))

    def _read(self, path: str, item: syntax.Import):
        base = os.path.dirname(path)
        try:
            text = self.loader(path) if self.loader is not None else None
            if text is not None:
                return text
            folder = os.path.realpath(os.path.dirname(self.opening[-2]) if len(self.opening) > 1 else base)
            if os.path.commonpath([folder, os.path.realpath(path)]) != folder:
                raise Fault("import-outside", "an import must stay inside the folder of the importing file",
                            span=item.path_span, found=f'"{item.path}"')
            if os.path.getsize(path) > LARGEST_FILE:
                raise Fault("limit", "the imported file is too large", span=item.path_span, found=f'"{item.path}"')
            with open(path, "rb") as file:
                content = file.read()
            self.build.sink.imports[path] = key_of(content)
            return content
        except (OSError, KeyError, ValueError):
            raise Fault("import", "the imported file cannot be read", span=item.path_span, found=f'"{item.path}"',
                        hint=_similar_file(base, path)) from None


def _similar_file(folder: str, path: str) -> str | None:
    from .values import nearest
    try:
        there = [name for name in os.listdir(folder or ".") if name.endswith(".net")]
    except OSError:
        return None
    return nearest(os.path.basename(path), there)
