"""The language server as an editor meets it: a subprocess that speaks the protocol over standard input and output."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("pygls")

BLOCKS = "net 1\n\n# A head.\nmodel Head(units: int)(x: f32[N, K]) -> f32[N, units]:\n    return Dense(units)(x)\n"
MAIN = """net 1

import "blocks.net" as blocks

# \U0001d54f stands for two units of UTF-16
model M(x: f32[N, 8]) -> f32[N, 3]:
    h = x |> Dense(16, relu)
    return blocks.Head(3)(h)
"""
TIMEOUT = 60


class Client:
    """A minimal client. `request` waits for the answer, `diagnostics` for the next ones that are published for a
    text."""

    def __init__(self, folder: Path):
        self.process = subprocess.Popen([sys.executable, "-m", "netc", "lsp", "--stdio"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)
        self.messages: queue.Queue = queue.Queue()
        self.published: dict[str, queue.Queue] = {}
        self.number = 0
        threading.Thread(target=self._read, daemon=True).start()
        self.folder = folder
        answer = self.request("initialize", processId=None, rootUri=folder.as_uri(), capabilities={},
                              workspaceFolders=[{"uri": folder.as_uri(), "name": "work"}])
        self.capabilities = answer["capabilities"]
        self.notify("initialized")

    def _read(self) -> None:
        stream = self.process.stdout
        while True:
            length = 0
            while (line := stream.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if not length:
                return
            message = json.loads(stream.read(length))
            if message.get("method") == "textDocument/publishDiagnostics":
                self.published.setdefault(message["params"]["uri"], queue.Queue()).put(message["params"]["diagnostics"])
            elif "id" in message and "method" not in message:
                self.messages.put(message)

    def _send(self, **message) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
        self.process.stdin.flush()

    def notify(self, method: str, **params) -> None:
        self._send(method=method, params=params)

    def ask(self, method: str, **params) -> dict:
        self.number += 1
        self._send(id=self.number, method=method, params=params)
        message = self.messages.get(timeout=TIMEOUT)
        assert message["id"] == self.number
        return message

    def request(self, method: str, **params):
        message = self.ask(method, **params)
        assert "error" not in message, message
        return message["result"]

    # -- texts --

    def uri(self, name: str) -> str:
        return (self.folder / name).as_uri()

    def open(self, name: str, text: str) -> None:
        self.notify("textDocument/didOpen", textDocument={"uri": self.uri(name), "languageId": "netc", "version": 1,
                                                          "text": text})

    def change(self, name: str, version: int, *edits: tuple) -> None:
        """Each edit: ((line, character), (line, character), text), or the whole text."""
        changes = [{"text": edit} if isinstance(edit, str) else {"range": span(*edit[:2]), "text": edit[2]}
                   for edit in edits]
        self.notify("textDocument/didChange", textDocument={"uri": self.uri(name), "version": version},
                    contentChanges=changes)

    def diagnostics(self, name: str) -> list[dict]:
        self.published.setdefault(self.uri(name), queue.Queue())
        return self.published[self.uri(name)].get(timeout=TIMEOUT)

    def at(self, method: str, name: str, line: int, character: int, **params):
        return self.ask(f"textDocument/{method}", textDocument={"uri": self.uri(name)}, position=place(line, character),
                        **params)


def place(line: int, character: int) -> dict:
    return {"line": line, "character": character}


def span(start: tuple[int, int], end: tuple[int, int]) -> dict:
    return {"start": place(*start), "end": place(*end)}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "blocks.net").write_text(BLOCKS)
    (folder / "main.net").write_text(MAIN, encoding="utf-8")
    client = Client(folder)
    yield client
    client.request("shutdown")
    client.notify("exit")
    assert client.process.wait(TIMEOUT) == 0


@pytest.fixture
def main(client):
    """The text main.net, open and right."""
    client.open("main.net", MAIN)
    assert client.diagnostics("main.net") == []
    yield client
    client.notify("textDocument/didClose", textDocument={"uri": client.uri("main.net")})
    while client.diagnostics("main.net"):
        pass


def test_what_the_server_can_do(client):
    for ability in ("hoverProvider", "definitionProvider", "referencesProvider", "documentSymbolProvider",
                    "documentFormattingProvider",
                    "renameProvider", "completionProvider", "codeActionProvider", "inlayHintProvider",
                    "documentHighlightProvider"):
        assert client.capabilities[ability], ability


def test_diagnostics_as_you_type(main):
    line = MAIN.split("\n")[6]
    start = line.index("relu")
    main.change("main.net", 2, ((6, start), (6, start + 4), "rely"))
    (found,) = main.diagnostics("main.net")
    assert found["range"] == span((6, start), (6, start + 4))
    assert (found["code"], found["severity"], found["source"]) == ("E0201", 1, "netc")
    assert "`rely` is not defined" in found["message"] and "hint: did you mean `relu`?" in found["message"]
    actions = main.request("textDocument/codeAction", textDocument={"uri": main.uri("main.net")}, range=found["range"],
                           context={"diagnostics": [found]})
    assert actions[0]["edit"]["changes"][main.uri("main.net")] == [{"range": found["range"], "newText": "relu"}]
    main.change("main.net", 3, ((6, start), (6, start + 4), "relu"), ((7, 0), (7, 0), "    spare = x\n"))
    (found,) = main.diagnostics("main.net")
    assert (found["code"], found["severity"], found["tags"]) == ("E0205", 2, [1])
    main.change("main.net", 4, MAIN.replace("|> Dense(16, relu)", "|> Dense(16, relu"))
    assert [item["code"] for item in main.diagnostics("main.net")] == ["E0105"]
    main.change("main.net", 5, MAIN)
    assert main.diagnostics("main.net") == []


def test_a_mistake_in_an_imported_text_that_is_not_saved(main):
    main.open("blocks.net", BLOCKS)
    assert main.diagnostics("blocks.net") == [] and main.diagnostics("main.net") == []
    main.change("blocks.net", 2, BLOCKS.replace("Dense(units)(x)", "Dens(units)(x)"))
    assert [item["code"] for item in main.diagnostics("blocks.net")] == ["E0201"]
    (found,) = main.diagnostics("main.net")
    assert found["range"]["start"] == place(2, 7) and "`Dens` is not defined" in found["message"]
    assert found["relatedInformation"][0]["location"]["uri"] == main.uri("blocks.net")
    main.change("blocks.net", 3, BLOCKS)
    assert main.diagnostics("blocks.net") == [] and main.diagnostics("main.net") == []
    main.notify("textDocument/didClose", textDocument={"uri": main.uri("blocks.net")})
    assert main.diagnostics("blocks.net") == []


def test_hover(main):
    found = main.at("hover", "main.net", 6, 4)["result"]
    assert "h: f32[N, 16]" in found["contents"]["value"] and found["range"] == span((6, 4), (6, 5))
    assert "gives `f32[N, 3]`" in main.at("hover", "main.net", 7, 20)["result"]["contents"]["value"]
    assert main.at("hover", "main.net", 0, 0)["result"] is None
    assert main.at("hover", "main.net", 99, 99)["result"] is None


def test_definition(main):
    found = main.at("definition", "main.net", 6, 14)["result"]
    path = Path(found["uri"].removeprefix("file://"))
    assert path.name == "layers.net" \
        and path.read_text(encoding="utf-8").split("\n")[found["range"]["start"]["line"]].startswith("model Dense(")
    assert main.at("definition", "main.net", 7, 20)["result"] == {"uri": main.uri("blocks.net"),
                                                                  "range": span((3, 6), (3, 10))}
    assert main.at("definition", "main.net", 2, 12)["result"]["uri"] == main.uri("blocks.net")
    assert main.at("definition", "main.net", 7, 26)["result"]["range"] == span((6, 4), (6, 5))
    assert main.at("definition", "main.net", 0, 0)["result"] is None


def test_columns_are_those_of_the_client(main):
    """A character beyond the first plane counts as two units."""
    text = MAIN.replace("x |> Dense(16, relu)", "f(x, \"\U0001d54f\")").replace("return", "y = h\n    return")
    main.change("main.net", 2, text)
    found = {item["code"]: item["range"] for item in main.diagnostics("main.net")}
    assert found["E0201"] == span((6, 8), (6, 9))
    main.change("main.net", 3, MAIN.replace("relu)", "relu, \"\U0001d54f\", rely)"))
    line = MAIN.split("\n")[6].replace("relu)", "relu, \"\U0001d54f\", rely)")
    ranges = [item["range"] for item in main.diagnostics("main.net")]
    assert span((6, line.index("rely") + 1), (6, line.index("rely") + 5)) in ranges


def test_completion(main):
    main.change("main.net", 2, ((7, 4), (7, 4), "y = Dense(un\n    "))
    found = {item["label"]: item for item in main.at("completion", "main.net", 7, 16)["result"]["items"]}
    assert found["units"]["insertText"] == "units = " \
        and found["units"]["sortText"] < found["h"]["sortText"] < found["LSTM"]["sortText"]
    assert found["h"]["detail"] == "f32[N, 16]"
    resolved = main.request("completionItem/resolve", **found["LSTM"])
    assert "model LSTM(units: int" in resolved["documentation"]["value"]
    assert [item["code"] for item in main.diagnostics("main.net")] == ["E0105"]


def test_rename(main):
    assert main.at("prepareRename", "main.net", 6, 4)["result"] == {"range": span((6, 4), (6, 5)), "placeholder": "h"}
    found = main.at("rename", "main.net", 6, 4, newName="hidden")["result"]["changes"]
    assert {(edit["range"]["start"]["line"], edit["newText"])
            for edit in found[main.uri("main.net")]} == {(6, "hidden"), (7, "hidden")}
    error = main.at("prepareRename", "main.net", 6, 14)["error"]
    assert error["message"] == "`Dense` belongs to the prelude"
    assert "reserved" in main.at("rename", "main.net", 6, 4, newName="if")["error"]["message"]


def test_rename_and_references_across_files(main):
    main.open("blocks.net", BLOCKS)
    found = main.at("rename", "blocks.net", 3, 7, newName="Output")["result"]["changes"]
    assert set(found) == {main.uri("blocks.net"), main.uri("main.net")}
    assert found[main.uri("main.net")] == [{"range": span((7, 18), (7, 22)), "newText": "Output"}]
    places = main.at("references", "blocks.net", 3, 7, context={"includeDeclaration": False})["result"]
    assert places == [{"uri": main.uri("main.net"), "range": span((7, 18), (7, 22))}]
    main.notify("textDocument/didClose", textDocument={"uri": main.uri("blocks.net")})


def test_formatting(main):
    main.change("main.net", 2, MAIN.replace("    h = x |>", "    h=x|>"))
    (edit,) = main.request("textDocument/formatting", textDocument={"uri": main.uri("main.net")},
                           options={"tabSize": 4, "insertSpaces": True})
    assert edit["newText"] == MAIN and edit["range"]["start"] == place(0, 0) \
        and edit["range"]["end"]["line"] >= MAIN.count("\n")
    main.change("main.net", 3, MAIN)
    assert main.request("textDocument/formatting", textDocument={"uri": main.uri("main.net")},
                        options={"tabSize": 4, "insertSpaces": True}) == []
    main.change("main.net", 4, MAIN + "model (")
    assert main.request("textDocument/formatting", textDocument={"uri": main.uri("main.net")},
                        options={"tabSize": 4, "insertSpaces": True}) is None


def test_symbols_highlights_and_hints(main):
    found = main.request("textDocument/documentSymbol", textDocument={"uri": main.uri("main.net")})
    assert [(item["name"], item["kind"]) for item in found] == [("blocks", 2), ("M", 5)]
    found = main.at("documentHighlight", "main.net", 6, 4)["result"]
    assert {item["range"]["start"]["line"] for item in found} == {6, 7}
    (hint,) = main.request("textDocument/inlayHint", textDocument={"uri": main.uri("main.net")},
                           range=span((0, 0), (9, 0)))
    assert (hint["label"], hint["position"]) == (": f32[N, 16]", place(6, 5))


def test_texts_that_are_no_programs_do_not_upset_it(main):
    for version, text in enumerate(["", "\0", "net 1\n" + "(" * 3000,
                                    "\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
                                    ("net 1\nmodel M(x: f32[N]):\n    for i in range(10000000000):\n        x = x\n   "
                                     " return x\n")], 2):
        main.change("main.net", version, text)
        main.diagnostics("main.net")
        for method in ("hover", "definition", "completion", "documentHighlight"):
            assert "error" not in main.at(method, "main.net", 1, 3)
        assert "error" not in main.ask("textDocument/documentSymbol", textDocument={"uri": main.uri("main.net")})
    main.change("main.net", 9, MAIN)
    assert main.diagnostics("main.net") == []


def test_without_pygls_it_says_what_to_install():
    code = ("import sys; sys.modules['pygls'] = None; sys.argv = ['netc', 'lsp'];"
            "from netc.compiler.cli import main; main()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: the language server needs pygls: pip install 'netc[lsp]'\n"
