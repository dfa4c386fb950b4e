"""The cache on disk: nothing is believed that it did not write itself, and nothing that goes wrong is an error."""

from __future__ import annotations

import ast
import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import netc
from netc.compiler.cli import main
from netc.runtime import cache, host, machine

ROOT = Path(netc.__file__).parent
POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
KEY, OTHER = cache.key_of("one"), cache.key_of("other")
PAYLOAD = bytes(range(256)) * 3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache."""
    place = tmp_path / "cache"
    monkeypatch.setenv("NETC_CACHE_DIR", str(place))
    monkeypatch.delenv("NETC_CACHE_LIMIT", raising=False)
    monkeypatch.setattr(cache, "_written", 1)           # not at a look at the folder's size
    forget()
    yield place
    forget()


def forget():
    """As a new process would start."""
    cache._look.cache_clear()
    cache._limit.cache_clear()


def evict(monkeypatch):
    """Put one entry more, with a look at the folder's size."""
    monkeypatch.setattr(cache, "_written", cache.EVICT_EVERY - 1)
    cache.put(cache.key_of("the last"), b"")


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def python(code: str, *arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          timeout=120,
                          env=os.environ | environment)


# --- what is believed ---------------------------------------------------------------------------------------------


def test_what_is_put_is_got(folder):
    assert cache.get(KEY) is None
    cache.put(KEY, PAYLOAD)
    cache.put(OTHER, b"")
    assert (cache.get(KEY), cache.get(OTHER)) == (PAYLOAD, b"")
    cache.put(KEY, b"new")
    forget()
    assert cache.get(KEY) == b"new"
    assert names(folder) == {KEY, OTHER, "secret"}
    if os.name == "posix":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE((folder / name).stat().st_mode) for name in names(folder)} == {0o600}


def test_keys_tell_texts_apart():
    texts = [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""), (b"ab", "d")]
    assert len({cache.key_of(*parts) for parts in texts}) == len(texts)


def test_an_entry_cut_short_is_absent(folder):
    cache.put(KEY, PAYLOAD)
    content = (folder / KEY).read_bytes()
    offsets = {len(content) * k // 100 for k in range(100)} | {len(content) - 1}
    for offset in sorted(offsets):
        (folder / KEY).write_bytes(content[:offset])
        assert cache.get(KEY) is None, offset
    (folder / KEY).write_bytes(content)
    assert cache.get(KEY) == PAYLOAD


def test_an_altered_entry_is_absent(folder):
    cache.put(KEY, PAYLOAD)
    content = (folder / KEY).read_bytes()
    for offset in range(len(content)):
        changed = bytearray(content)
        changed[offset] ^= 1 << offset % 8
        (folder / KEY).write_bytes(changed)
        assert cache.get(KEY) is None, offset
    (folder / KEY).write_bytes(content + b"\0")
    assert cache.get(KEY) is None


def test_a_renamed_entry_is_absent(folder):
    cache.put(KEY, PAYLOAD)
    (folder / KEY).rename(folder / OTHER)
    assert cache.get(KEY) is None
    assert cache.get(OTHER) is None


def test_a_planted_entry_is_absent(folder, tmp_path, monkeypatch):
    """One that is well formed, signed with the secret of another folder."""
    cache.put(OTHER, b"")
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("NETC_CACHE_DIR", str(elsewhere))
    cache.put(KEY, PAYLOAD)
    (folder / KEY).write_bytes((elsewhere / KEY).read_bytes())
    monkeypatch.setenv("NETC_CACHE_DIR", str(folder))
    assert cache.get(KEY) is None


@POSIX
def test_links_pipes_and_folders_are_no_entries(folder, tmp_path):
    cache.put(KEY, PAYLOAD)
    outside = tmp_path / "outside"
    (folder / KEY).rename(outside)
    (folder / KEY).symlink_to(outside)
    assert cache.get(KEY) is None
    os.mkfifo(folder / OTHER)               # opening one must not wait for a writer
    assert cache.get(OTHER) is None
    folder_as_entry = cache.key_of("folder")
    (folder / folder_as_entry).mkdir()
    assert cache.get(folder_as_entry) is None
    cache.put(folder_as_entry, PAYLOAD)     # cannot be written: no error
    cache.put(KEY, b"replaces the link")
    assert outside.read_bytes().endswith(PAYLOAD)
    assert cache.get(KEY) == b"replaces the link"


# --- the folder and its secret ------------------------------------------------------------------------------------


@POSIX
def test_a_folder_that_others_can_write_to_is_not_used(folder):
    folder.mkdir()
    for mode in (0o777, 0o770, 0o702):
        folder.chmod(mode)
        forget()
        with pytest.warns(UserWarning, match="can be written by others"):
            cache.put(KEY, PAYLOAD)
        assert cache.get(KEY) is None
        assert names(folder) == set()
    assert "written by others" in cache.info().fault


@POSIX
def test_a_folder_of_another_user_is_not_used(folder, monkeypatch):
    cache.put(KEY, PAYLOAD)
    before = names(folder)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    forget()
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert cache.get(KEY) is None
    cache.put(OTHER, PAYLOAD)
    assert names(folder) == before


@POSIX
@pytest.mark.parametrize("spoil", [
    lambda secret: secret.write_bytes(b"short"),
    lambda secret: secret.write_bytes(b""),
    lambda secret: secret.chmod(0o644),
    lambda secret: (secret.rename(secret.with_name("kept")), secret.symlink_to(secret.with_name("kept"))),
    lambda secret: secret.unlink(),
], ids=["short", "empty", "readable", "link", "gone"])
def test_a_secret_that_others_may_know_is_replaced(folder, spoil):
    cache.put(KEY, PAYLOAD)
    spoil(folder / "secret")
    forget()
    assert cache.get(KEY) is None
    cache.put(KEY, PAYLOAD)
    forget()
    assert cache.get(KEY) == PAYLOAD
    assert stat.S_IMODE((folder / "secret").lstat().st_mode) == 0o600


def test_without_links_the_secret_is_kept_all_the_same(folder, monkeypatch):
    def refuse(*places):
        raise PermissionError(errno.EPERM, "no links here")
    monkeypatch.setattr(os, "link", refuse)
    cache.put(KEY, PAYLOAD)
    forget()
    assert cache.get(KEY) == PAYLOAD
    assert names(folder) == {KEY, "secret"}


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    import platformdirs
    monkeypatch.delenv("NETC_CACHE_DIR")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *names, **options: "~/.cache/netc")
    cache.put(KEY, PAYLOAD)
    assert cache.get(KEY) is None
    assert "no home" in cache.info().fault
    assert cache.clear() == 0


# --- what can go wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_costs_only_the_entry(folder, monkeypatch, code):
    cache.put(OTHER, PAYLOAD)
    write = os.write

    def half(descriptor, content):
        """Half of it fits."""
        if len(content) < 100:
            raise OSError(code, os.strerror(code))
        return write(descriptor, content[:len(content) // 2])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        cache.put(KEY, PAYLOAD)
    assert cache.get(KEY) is None
    assert cache.get(OTHER) == PAYLOAD
    assert names(folder) == {OTHER, "secret"}


FILE_LIMIT = """
import resource, sys, warnings
from netc.runtime import cache
warnings.simplefilter("error")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
cache.put(cache.key_of("large"), bytes(10_000))
cache.put(cache.key_of("small"), b"small")
print(cache.get(cache.key_of("large")), cache.get(cache.key_of("small")))
"""


@POSIX
@pytest.mark.parametrize("most, small", [(1000, "b'small'"), (0, "None")], ids=["small files fit", "none fits"])
def test_a_limit_on_files_costs_only_what_does_not_fit(folder, most, small):
    done = python(FILE_LIMIT, most)
    assert (done.stdout, done.stderr) == (f"None {small}\n", "")
    assert not [name for name in names(folder) if name.startswith("tmp-")]


def test_a_folder_that_becomes_read_only_is_still_read(folder, monkeypatch):
    cache.put(KEY, PAYLOAD)
    opened = os.open

    def read_only(place, flags, *mode):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "read-only file system")
        return opened(place, flags, *mode)

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "read-only file system")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        for name in ("utime", "replace", "unlink", "link"):
            patch.setattr(os, name, refuse)
        forget()
        assert cache.get(KEY) == PAYLOAD
        cache.put(OTHER, PAYLOAD)
        assert cache.get(OTHER) is None
        assert cache.clear() == 0
        assert cache.info().entries == 1


@POSIX
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(folder):
    cache.put(KEY, PAYLOAD)
    folder.chmod(0o500)
    forget()
    try:
        assert cache.get(KEY) == PAYLOAD
        cache.put(OTHER, PAYLOAD)
        assert cache.get(OTHER) is None
    finally:
        folder.chmod(0o700)


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    forget()
    cache.put(KEY, PAYLOAD)
    assert cache.get(KEY) is None
    assert "cannot be used" in cache.info().fault
    forget()


def test_a_folder_that_is_removed_meanwhile(folder):
    cache.put(KEY, PAYLOAD)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert cache.get(KEY) is None
    cache.put(KEY, PAYLOAD)
    assert cache.get(KEY) is None


SHARE = """
import random, sys
from netc.runtime import cache
keys = {cache.key_of(str(k)): f"payload {k}".encode() * 1000 for k in range(30)}
order = list(keys)
random.Random(int(sys.argv[1])).shuffle(order)
for key in order:
    found = cache.get(key)
    assert found in (None, keys[key])
    if found is None:
        cache.put(key, keys[key])
    assert cache.get(key) == keys[key]
"""


def share(folder, processes: int) -> None:
    """Processes that start on one cold cache at once."""
    running = [subprocess.Popen([sys.executable, "-c", SHARE, str(seed)], stderr=subprocess.PIPE) for seed in
               range(processes)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, b"")
    for key, payload in ((cache.key_of(str(k)), f"payload {k}".encode() * 1000) for k in range(30)):
        assert cache.get(key) == payload
    assert names(folder) == {"secret"} | {cache.key_of(str(k)) for k in range(30)}


def test_sixteen_processes_on_a_cold_cache(folder):
    share(folder, 16)


FILL = """
from netc.runtime import cache
keys = [cache.key_of(str(k)) for k in range(4)]
cache.put(keys[0], b"")
print("ready", flush=True)
while True:
    for key in keys:
        cache.put(key, key.encode() * 20_000)
"""


@POSIX
def test_killed_while_writing(folder, monkeypatch):
    whole = {key: key.encode() * 20_000 for key in (cache.key_of(str(k)) for k in range(4))}
    for turn in range(8):
        process = subprocess.Popen([sys.executable, "-c", FILL], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(random.Random(turn).random() / 50)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        for key, payload in whole.items():
            assert cache.get(key) in (None, b"", payload)
    for path in folder.glob("tmp-*"):
        os.utime(path, (time.time() - 2 * cache.STALE_SECONDS,) * 2)
    evict(monkeypatch)
    assert not list(folder.glob("tmp-*"))


# --- size and age -------------------------------------------------------------------------------------------------


def entry(number: int) -> str:
    return cache.key_of(f"entry {number}")


def fill(folder, count: int, nbytes: int = 300_000) -> None:
    """Entries whose last use was 10 hours ago, 9 hours ago, ..."""
    now = time.time()
    for number in range(count):
        cache.put(entry(number), bytes(nbytes))
        os.utime(folder / entry(number), (now - (10 - number) * 3600,) * 2)


def test_the_least_recently_used_go_first(folder, monkeypatch):
    monkeypatch.setenv("NETC_CACHE_LIMIT", "1")
    fill(folder, 6)
    assert cache.get(entry(1)) is not None      # used now
    evict(monkeypatch)
    assert [number for number in range(6) if cache.get(entry(number)) is not None] == [1, 4, 5]


def test_a_process_looks_at_its_first_entry_unless_one_has_lately(folder, monkeypatch):
    """A folder may hold tens of thousands of entries; a command that adds one shall not look at all of them each
    time."""
    monkeypatch.setenv("NETC_CACHE_LIMIT", "1")
    fill(folder, 6)

    def first_of_a_process():
        monkeypatch.setattr(cache, "_written", 0)
        cache.put(cache.key_of("the last"), b"")
        return [number for number in range(6) if cache.get(entry(number)) is not None]
    secret = folder / "secret"
    assert first_of_a_process() == [0, 1, 2, 3, 4, 5]
    for moment in (time.time() - 2 * cache.EVICT_SECONDS, time.time() + 2 * cache.EVICT_SECONDS):
        fill(folder, 6)
        os.utime(secret, (moment, moment))
        assert first_of_a_process() == [3, 4, 5]
        assert abs(secret.stat().st_mtime - time.time()) < 60


def test_a_time_of_the_future_is_no_time_of_use(folder, monkeypatch):
    """The clock was a year ahead once: what was used then is not the last to go, and using it sets the time right."""
    monkeypatch.setenv("NETC_CACHE_LIMIT", "1")
    fill(folder, 6)
    future = time.time() + 365 * 24 * 3600
    for number in (4, 5):
        os.utime(folder / entry(number), (future, future))
    assert cache.get(entry(4)) is not None
    evict(monkeypatch)
    assert [number for number in range(6) if cache.get(entry(number)) is not None] == [2, 3, 4]


def test_a_clock_that_is_set_back(folder, monkeypatch):
    """All entries are of the future then: they stay as long as there is room."""
    fill(folder, 3)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    evict(monkeypatch)
    assert all(cache.get(entry(number)) is not None for number in range(3))


def test_a_limit_of_zero_keeps_nothing(folder, monkeypatch):
    monkeypatch.setenv("NETC_CACHE_LIMIT", "0")
    cache.put(KEY, PAYLOAD)
    assert cache.get(KEY) is None


def test_a_limit_that_is_no_number(folder, monkeypatch):
    monkeypatch.setenv("NETC_CACHE_LIMIT", "much")
    with pytest.warns(UserWarning, match="NETC_CACHE_LIMIT=much is not a whole number of MiB: 512 is used"):
        cache.put(KEY, PAYLOAD)
    assert cache.get(KEY) == PAYLOAD


def test_only_its_own_files_are_removed(folder, monkeypatch):
    cache.put(KEY, PAYLOAD)
    mine = {"notes.txt", "tmp-mine", KEY[:-1], KEY + "0", KEY.upper()}
    for name in mine:
        (folder / name).write_text("mine")
        os.utime(folder / name, (0, 0))
    monkeypatch.setenv("NETC_CACHE_LIMIT", "1")
    cache.put(OTHER, bytes(2_000_000))
    evict(monkeypatch)
    assert cache.clear() >= 1
    assert names(folder) == mine | {"secret"}


def test_the_commands(folder, capsys):
    cache.put(KEY, PAYLOAD)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["cache", *arguments])
        assert not ended.value.code
        return capsys.readouterr().out
    assert run("info") == f"folder   {folder}\nentries  1\nsize     0.0 MiB of at most 512.0 MiB\n"
    assert run("clear") == "1 entries removed\n"
    assert cache.get(KEY) is None
    assert run("clear") == "0 entries removed\n"


@POSIX
def test_a_refused_folder_is_a_warning_on_the_command_line(folder, capsys):
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(SystemExit):
        main(["cache", "info"])
    captured = capsys.readouterr()
    assert captured.err.startswith(f"warning: the cache folder {folder} can be written by others")
    assert "not used: can be written by others" in captured.out


# --- machine code -------------------------------------------------------------------------------------------------

MODEL = """
import sys, warnings
import numpy as np
import netc
from netc.runtime import machine
warnings.simplefilter("error")
fn = netc.compile('''net 1
model Scale(x: f32[N, 3]) -> (y: f32[N, 3]):
    param factor: f32[3] = ones
    y = tanh(x) * factor + 0.25
train Scale:
    input target: f32[N, 3]
    loss square = mean((y - target) ** 2)
    optimizer = sgd(lr = 0.1)
''')
step = fn.trainer(fn.init())
x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
step(x=x, target=x * 2)
print(step.weights.flat.tobytes().hex(), fn(step.weights, x).tobytes().hex())
print(machine.counts.compiled, machine.counts.cached, "netc.runtime.translate" in sys.modules)
"""


def model(**environment) -> tuple[str, int, int, bool]:
    """The model's results in a new process, how many kernels that compiled and found, and whether it imported what
    compiles."""
    done = python(MODEL, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    result, counted = done.stdout.splitlines()
    compiled, cached, compiler = counted.split()
    return result, int(compiled), int(cached), compiler == "True"


@pytest.fixture(scope="module")
def compiled_model(tmp_path_factory):
    """(folder, results): a cache that a first process has filled."""
    folder = tmp_path_factory.mktemp("model") / "cache"
    result, compiled, cached, compiler = model(NETC_CACHE_DIR=str(folder))
    assert compiled > 3 and cached == 0 and compiler
    return folder, result, compiled


def test_the_second_process_compiles_nothing_and_imports_no_compiler(compiled_model):
    folder, result, compiled = compiled_model
    assert model(NETC_CACHE_DIR=str(folder)) == (result, 0, compiled, False)


def test_code_under_another_name_never_runs(compiled_model, tmp_path):
    """Every entry holds working code, but of another kernel: all are compiled again, and right."""
    folder, result, compiled = compiled_model
    spoiled = tmp_path / "cache"
    spoiled.mkdir(0o700)
    entries = sorted(path for path in folder.iterdir() if path.name != "secret")
    for path, name in zip([folder / "secret", *entries], ["secret", *(p.name for p in entries[1:]), entries[0].name]):
        (spoiled / name).write_bytes(path.read_bytes())
        (spoiled / name).chmod(0o600)
    assert model(NETC_CACHE_DIR=str(spoiled))[:3] == (result, compiled, 0)
    assert model(NETC_CACHE_DIR=str(spoiled)) == (result, 0, compiled, False)       # mended


def test_a_cache_that_cannot_be_used_costs_only_time(compiled_model):
    assert model(NETC_CACHE_DIR=os.devnull)[:3] == (compiled_model[1], compiled_model[2], 0)


def kernel(value: float) -> str:
    return f"def kernel(bases, args, begin, end):\n    y = buffer_f32(bases, args, 0)\n    y[0] = float32({value})\n"


def test_an_object_that_does_not_link_is_compiled_again(folder, monkeypatch):
    """A symbol that is not in the object: it verifies, so only the linker can find out."""
    from netc.runtime.builders import build
    text, other = kernel(1.5), kernel(2.5)
    made, good = build(text), build(other)
    monkeypatch.setattr(machine, "_loaded", {})
    monkeypatch.setattr(machine, "counts", machine.Counts())
    cache.put(machine._key(text), b"another_symbol\0" + made.content)
    cache.put(machine._key(other), good.symbol.encode() + b"\0" + good.content)
    assert all(code.address and code.seconds for code in machine.codes([text, other]).values())
    assert machine.counts == machine.Counts(compiled=2)
    assert cache.get(machine._key(text)) == made.symbol.encode() + b"\0" + made.content     # mended
    monkeypatch.setattr(machine, "_loaded", {})
    assert all(code.seconds is None for code in machine.codes([text, other]).values())
    assert machine.counts == machine.Counts(compiled=2, cached=2)


def test_everything_that_shapes_code_is_in_the_key(monkeypatch):
    def key():
        machine._environment.cache_clear()
        return machine._key("text")
    keys = {key(), machine._key("other text")}
    for name, value in [("host", lambda: host.Host("triple", "another", "")), ("c_library", lambda: "musl"),
                        ("EMITTERS", machine.EMITTERS[:-1])]:
        with monkeypatch.context() as patch:
            patch.setattr(machine, name, value)
            keys.add(key())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version", "4.0")
        keys.add(key())
    machine._environment.cache_clear()
    assert len(keys) == 6


def test_the_emitters_are_the_modules_that_make_code():
    """Those that make LLVM's language, what these import, and the module that chooses among them; what Numba makes is
    not kept."""
    uses = {}
    for path in sorted(set((ROOT / "runtime").glob("*.py")) - {ROOT / "runtime" / "numba_backend.py"}):
        imported = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if
                    isinstance(node, ast.ImportFrom)]
        own = {node.module or alias.name for node in imported if node.level for alias in node.names}
        uses[path.stem] = own, "kinds" in own or any(not node.level and node.module == "llvmlite" for node in imported)
    needed = {name for name, (_, makes_code) in uses.items() if makes_code}
    needed |= {own for name in needed for own in uses[name][0]} - {"cache"}
    assert set(machine.EMITTERS) == needed | {"builders"}
