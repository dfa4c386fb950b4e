"""Pictures: everything is there, nothing overlaps, every arrow leads from a box to a box."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import netc
from netc.compiler.plot import Picture, dot, format_of, mermaid, svg
from netc.compiler.plot.figure import Block, Figure, Group, Link
from netc.compiler.plot.fold import MOST_BLOCKS, fold
from netc.compiler.plot.layout import GAP, layout
from netc.compiler.plot.model_view import settings_text
from netc.compiler.plot.place import solve
from netc.compiler.plot.ranks import assign
from netc.compiler.plot.text import shortened, width

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = [path.stem for path in sorted(EXAMPLES.glob("*.net")) if path.stem != "inception_block"]
ROOM = 1e-3                  # what rounding may take of a distance


@cache
def example(name: str):
    return netc.compile(EXAMPLES / f"{name}.net", target="numpy")


def placed(figure: Figure):
    return layout(figure, svg.size_of, svg.header_of)


def rectangle(found, block):
    (x, y), (wide, high) = found.places[block], found.sizes[block]
    return x - wide / 2, y - high / 2, x + wide / 2, y + high / 2


def frame(found, group):
    f = found.frames[group]
    return f.left, f.top, f.right, f.bottom


def overlap(a, b):
    return min(a[2], b[2]) - max(a[0], b[0]) > ROOM and min(a[3], b[3]) - max(a[1], b[1]) > ROOM


def inside(a, b):
    return a[0] >= b[0] - ROOM and a[1] >= b[1] - ROOM and a[2] <= b[2] + ROOM and a[3] <= b[3] + ROOM


def check(figure: Figure):
    """All that must hold of any picture."""
    found = placed(figure)
    boxes = {block: rectangle(found, block) for block in figure.blocks}
    for number, a in enumerate(figure.blocks):
        assert inside(boxes[a], (0, 0, found.width, found.height))
        for b in figure.blocks[:number]:
            assert not overlap(boxes[a], boxes[b]), (a.title, b.title)
    for group in figure.groups:
        own = frame(found, group)
        if group.parent is not None:
            assert inside(own, frame(found, group.parent)), group.title
        for block in figure.blocks:
            within = block.group is not None and group in block.group.chain()
            assert inside(boxes[block], own) if within else not overlap(boxes[block], own), (group.title, block.title)
        for other in figure.groups:
            related = group in other.chain() or other in group.chain()
            assert related or not overlap(own, frame(found, other)), (group.title, other.title)
    for link in figure.links:
        check_path(figure, found, boxes, link)
    return found


def check_path(figure, found, boxes, link):
    """It leaves the bottom of one box, enters the top or a side of another, runs straight, and through no third."""
    points = found.paths[link]
    left, _, right, bottom = boxes[link.source]
    assert left - ROOM <= points[0][0] <= right + ROOM and abs(points[0][1] - bottom) < ROOM
    left, top, right, bottom = boxes[link.target]
    x, y = points[-1]
    from_above = left - ROOM <= x <= right + ROOM and abs(y - top) < ROOM
    from_side = min(abs(x - left), abs(x - right)) < ROOM and top <= y <= bottom
    assert from_above or from_side, (link.source.title, link.target.title)
    assert all(abs(x - u) < ROOM or abs(y - v) < ROOM for (x, y), (u, v) in pairwise(points))
    assert all(v >= y - ROOM for (_, y), (_, v) in pairwise(points)), "a link never goes up"
    for (x, y), (u, v) in pairwise(points):
        line = min(x, u) - ROOM, min(y, v) - ROOM, max(x, u) + ROOM, max(y, v) + ROOM
        for block in figure.blocks:
            if block not in (link.source, link.target):
                wide = boxes[block]
                shrunk = wide[0] + 1, wide[1] + 1, wide[2] - 1, wide[3] - 1
                assert not overlap(line, shrunk), (link.source.title, link.target.title, "through", block.title)


# --- the examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_layers_of_every_example(name):
    fn = example(name)
    figure = fn.plot().figure
    check(figure)
    shown = {block.title for block in figure.blocks}
    assert set(fn.inputs) <= shown and set(fn.outputs) <= shown
    assert figure.caption == f"{fn.layout.trainable_size:,} parameters"


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_layer_is_there(name):
    """Opened all the way and one by one, each call of a layer is a box or a group of its own."""
    fn = example(name)
    figure = fn.plot(depth=99, unroll=True).figure
    leaves = [layer for layer in fn.model.layers if layer.path
              and not any(other.prefix.startswith(layer.prefix + ".") for other in fn.model.layers)]
    drawn = [block.tooltip for block in figure.blocks if block.tooltip]
    for layer in leaves:
        assert layer.prefix in drawn, layer.prefix
    nested = [layer for layer in fn.model.layers if layer.path and layer not in leaves]
    assert len(figure.groups) == len(nested)
    check(figure)


def kernels_in(block):
    """How many kernels a block stands for."""
    if block.style in ("input", "output") or (block.style == "memory" and block.title.endswith("B")):
        return 0
    folded = re.fullmatch(r"(\d+) kernels?", block.lines[0]) if block.lines else None
    if folded:
        return int(folded[1])
    return int(block.title.rpartition("×")[2]) if re.search(r"×\d+$", block.title) else 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_kernels_of_every_example(name):
    fn = example(name)
    figure = fn.plot("kernels").figure
    check(figure)
    assert {*fn.inputs, *fn.outputs} <= {block.title for block in figure.blocks}
    assert sum(map(kernels_in, figure.blocks)) == int(figure.caption.split(" kernels")[0])
    assert len(figure.blocks) <= max(MOST_BLOCKS, len(fn.plot("kernels", depth=1).figure.blocks))


def test_kernels_fold_into_the_models_that_they_are_of():
    """The transformer as its figure in the paper; every level opens more, and none loses a kernel."""
    fn = example("transformer")
    levels = {depth: fn.plot("kernels", depth=depth).figure for depth in (1, 2, 3, 9)}
    sizes = [len(figure.blocks) for figure in levels.values()]
    assert sizes == sorted(sizes) and sizes[0] < 30 and sizes[-1] > 3 * sizes[0]
    for figure in levels.values():
        assert sum(map(kernels_in, figure.blocks)) == int(figure.caption.split(" kernels")[0])
    found = fn.plot("kernels").figure
    encoder = next(group for group in found.groups if group.title == "memory_1: TransformerEncoder")
    # A layer of one kernel is that kernel, and named in it.
    titles = [block.title if ":" in block.title else block.lines[0] for block in found.blocks if block.group is encoder]
    parts = "attention: MultiHeadAttention", "attention_norm", "feedforward: FeedForward", "feedforward_norm"
    assert len(titles) == len(parts) and all(part in title for part, title in zip(parts, titles))
    attention = next(block for block in found.blocks if block.title.startswith("cross_attention"))
    sources = "; ".join(f"{link.source.title} {link.source.lines[0]}" for link in found.links
                        if link.target is attention)
    assert all(part in sources for part in ("self_norm", "feedforward_norm", "source"))


def test_a_model_that_a_fold_would_tie_into_a_circle_stays_open():
    group = Group("inner", "")
    first, second, between = (Block(title, ("1 kernel",)) for title in ("first", "second", "between"))
    figure = Figure("circle", "", [first, between, second], [], [Link(first, between), Link(between, second)])
    fold(figure, {first: (group,), second: (group,)}, 0)
    assert figure.blocks == [first, between, second]
    figure.links.pop()
    fold(figure, {first: (group,), second: (group,)}, 0)
    assert [block.title for block in figure.blocks] == ["inner", "between"] and len(figure.links) == 1


def test_the_kernels_of_a_training_step():
    figure = example("digits").plot("kernels", program="step", sizes={"N": 8}).figure
    check(figure)
    assert figure.title == "Digits: step" and "at N = 8" in figure.caption
    titles = [block.title for block in figure.blocks]
    assert titles.count("weights") == 1 and "loss" in titles and "label" in titles
    fused = {line for block in figure.blocks for line in block.lines}
    assert any("+" in line and "where" in line for line in fused) and any(line.startswith("→ ") for line in fused)


def test_inception_reads_like_the_figure():
    """Each module a group of four branches that start at one dot and end in one concatenation, above one another."""
    figure = example("inception").plot().figure
    found = check(figure)
    assert [group.title for group in figure.groups] == ["Inception", "Inception"]
    for group in figure.groups:
        own = list(figure.inside(group))
        dots = [block for block in own if block.shape == "dot"]
        assert len(dots) == 1 and sum(link.source is dots[0] for link in figure.links) == 4
        joined = next(block for block in own if block.title == "concat")
        assert sum(link.target is joined for link in figure.links) == 4
        ranks = {round(found.places[block][1]) for block in own}
        assert len(ranks) == 4                              # the dot, two rows of layers, the concatenation
        x = [found.places[block][0] for block in own if any(link.source is dots[0] and link.target is block
                                                            for link in figure.links)]
        assert abs(found.places[dots[0]][0] - np.mean(x)) < 12          # the dot above the middle
    chain = [block for block in figure.blocks if block.title in ("Flatten", "Dense", "probability")]
    assert np.ptp([found.places[block][0] for block in chain]) < 1      # and a straight line below


def test_the_transformer_reads_like_the_figure():
    figure = example("transformer").plot().figure
    found = check(figure)
    encoder, decoder = (next(group for group in figure.groups if group.title.startswith(f"Transformer{name}"))
                        for name in ("Encoder", "Decoder"))
    assert encoder.title.endswith("×2") and decoder.title.endswith("×2")
    a, b = found.frames[encoder], found.frames[decoder]
    assert a.right < b.left or b.right < a.left                # side by side
    assert min(a.bottom, b.bottom) > max(a.top, b.top)
    memory = next(link for link in figure.links if link.source.group is encoder and link.target.group is decoder)
    assert "cross_attention" in memory.target.title
    signs = [block for block in figure.blocks if block.title == "+"]
    assert len(signs) == 7 and all(sum(link.target is sign for link in figure.links) == 2 for sign in signs)
    crossings = sum(crossed(found.paths[p], found.paths[q]) for k, p in enumerate(figure.links)
                    for q in figure.links[:k]
                    if p.source is not q.source)
    assert crossings <= 3


def crossed(a, b):
    """Whether two paths cross, a vertical line of one a horizontal of the other."""
    def lines(points):
        return list(pairwise(points))
    for (x, y), (u, v) in lines(a):
        for (p, q), (r, s) in lines(b):
            for h, k in ((((x, y), (u, v)), ((p, q), (r, s))), (((p, q), (r, s)), ((x, y), (u, v)))):
                (hx, hy), (hu, hv) = h
                (kx, ky), (ku, kv) = k
                if abs(hy - hv) < ROOM and abs(kx - ku) < ROOM and min(hx, hu) < kx < max(hx, hu) and ky < hy < kv:
                    return 1
    return 0


def test_like_models_in_a_row_are_one_until_unrolled():
    fn = example("transformer")
    assert len(fn.plot().figure.groups) == 4
    unrolled = fn.plot(unroll=True, depth=2).figure
    assert sum(group.title.endswith("TransformerEncoder") for group in unrolled.groups) == 2
    check(unrolled)
    closed = fn.plot(depth=1).figure
    assert not closed.groups and any(block.title == "TransformerEncoder  ×2" for block in closed.blocks)


def test_sharing_and_tying_are_shown():
    figure = example("two_images").plot().figure
    assert [group.note for group in figure.groups if group.title == "Features"] == ["1,088,720", "shared"]
    tied = netc.compile("""net 1
model M(text: i32[N, T]) -> (logits: f32[N, T, 7]):
    embedding = Embedding(7, 4)
    h = LayerNorm()(embedding(text))
    logits = h @ transpose(embedding.embeddings)
""", target="numpy")
    figure = tied.plot().figure
    check(figure)
    link, = (link for link in figure.links if link.weight)
    assert (link.source.title, link.target.title, link.label) == ("Embedding", "logits: matmul", "embedding.embeddings")
    assert 'stroke-dasharray' in tied.plot().write() and "-.->" in tied.plot().write("mermaid")


# --- writers ----------------------------------------------------------------------------------------------------------

HOSTILE = 'a<b>&"c" #x\n]) --> {z} \\ é 中'


def hostile():
    group = Group(HOSTILE, HOSTILE)
    blocks = [Block(HOSTILE, (HOSTILE,), "input"), Block(HOSTILE, (), "operation", "pill", group, HOSTILE),
              Block("+", shape="circle")]
    return Figure(HOSTILE, HOSTILE, blocks, [group],
                  [Link(blocks[0], blocks[1], 0, HOSTILE), Link(blocks[1], blocks[2])])


@pytest.mark.parametrize("figure", [hostile, lambda: Figure("nothing"), lambda: example("ticket").plot().figure])
def test_svg_is_sound(figure):
    figure = figure()
    root = ElementTree.fromstring(svg.write(figure))
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg" and root.find(f"{space}title").text == figure.title
    drawn = [element for element in root.iter() if element.get("class") in ("block", "dot")]
    links = [element for element in root.iter() if element.get("class") == "link"]
    assert len(drawn) == len(figure.blocks) and len(links) == len(figure.links)
    assert len([element for element in root.iter() if element.get("class") == "group"]) == len(figure.groups)
    assert all(re.fullmatch(r"M[-\d. LQ]+", element.get("d")) for element in links)
    box = list(map(float, root.get("viewBox").split()))
    assert box[2] > 0 and box[3] > 0
    for element in root.iter(f"{space}text"):
        assert 0 <= float(element.get("x")) <= box[2] and element.text is not None or not element.text


def test_dot_names_everything_once():
    text = dot.write(hostile())
    assert text.count("->") == 2 + text.count("-->") and text.startswith('digraph "a<b>&\\"c\\"')
    figure = example("inception").plot().figure
    text = dot.write(figure)
    assert len(re.findall(r"^ *b\d+ \[label=", text, re.MULTILINE)) == len(figure.blocks)
    assert len(re.findall(r"^  b\d+ -> b\d+", text, re.MULTILINE)) == len(figure.links) \
        and text.count("subgraph cluster_") == 2
    assert text.count("{") == text.count("}")


def test_mermaid_names_everything_once():
    text = mermaid.write(hostile())
    body = [line for line in text.splitlines() if re.match(r" *b\d", line)]
    assert not any("<b>" in line or '"c"' in line for line in body)
    figure = example("inception").plot().figure
    text = mermaid.write(figure)
    assert len(re.findall(r"^ *b\d+[\[(]", text, re.MULTILINE)) == len(figure.blocks)
    assert len(re.findall(r"^  b\d+ --[->]", text, re.MULTILINE)) == len(figure.links)
    assert text.count("subgraph ") == text.count("\n    end") + text.count("\n  end") == 2


def test_files_by_their_endings(tmp_path):
    picture = example("digits").plot()
    assert isinstance(picture, Picture) and picture._repr_svg_() == picture.write("svg")
    for name, start in (("a.svg", "<svg"), ("a.dot", "digraph"), ("a.gv", "digraph"), ("a.mmd", "---"),
                        ("a.md", "```mermaid\n---")):
        picture.save(tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)
    assert (tmp_path / "a.md").read_text(encoding="utf-8").endswith("```\n")
    for attempt in (lambda: picture.save(tmp_path / "a.png"), lambda: picture.write("pdf"), lambda: format_of("x"),
                    lambda: example("digits").plot("soup"), lambda: example("digits").plot("kernels", program="soup")):
        with pytest.raises(netc.ModelError):
            attempt()


def test_the_command_line_draws(tmp_path, monkeypatch, capsys):
    from netc.compiler.cli import main
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.net").write_bytes((EXAMPLES / "digits.net").read_bytes())

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["plot", "digits.net", *arguments])
        return ended.value.code or 0, capsys.readouterr()
    code, shown = run()
    assert code == 0 and "5 boxes, 4 arrows saved to digits.svg" in shown.out
    ElementTree.parse("digits.svg")
    assert run("--view", "kernels", "--program", "step", "--size", "N=4", "--save", "k.dot")[0] == 0
    assert "at N = 4" in Path("k.dot").read_text(encoding="utf-8")
    for arguments, message in ((("--save", "x.png"), "pictures are written as"), (("--save", "digits.net"), "pictures"),
                               (("--save", "no/x.svg"), "no writable folder")):
        code, shown = run(*arguments)
        assert code == 1 and message in shown.err


# --- the parts --------------------------------------------------------------------------------------------------------


def random_figure(rng, blocks, links, groups):
    figure = Figure("random")
    for k in range(groups):
        figure.groups.append(Group(f"group {k}", parent=rng.choice([None, *figure.groups])))
    for k in range(blocks):
        shape = rng.choice(["box", "box", "pill", "circle", "dot"])
        group = rng.choice([None, *figure.groups])
        figure.blocks.append(Block(f"b{k}", tuple(["line"] * rng.integers(0, 3)), shape=shape, group=group))
    for group in figure.groups:                              # none is empty
        figure.blocks.append(Block(group.title, group=group))
    seen = set()
    for _ in range(links):
        a, b = sorted(rng.choice(len(figure.blocks), 2, replace=False))
        if (a, b) not in seen:
            seen.add((a, b))
            figure.links.append(Link(figure.blocks[a], figure.blocks[b], int(rng.integers(0, 2))))
    return figure


@pytest.mark.parametrize("seed", range(30))
def test_any_figure_is_drawn_without_overlaps(seed):
    rng = np.random.default_rng(seed)
    figure = random_figure(rng, int(rng.integers(1, 26)), int(rng.integers(0, 40)), int(rng.integers(0, 5)))
    check(figure)
    ElementTree.fromstring(svg.write(figure))


def test_a_figure_is_drawn_the_same_each_time():
    first = svg.write(example("two_images").plot().figure)
    assert first == svg.write(example("two_images").plot().figure)


def test_a_long_model_is_drawn_in_time():
    source = ("net 1\nmodel M(x: f32[N, 8]) -> f32[N, 8]:\n    for i in range(60):\n        x = x + Dense(8)(Dense(8, "
              "relu)(x))\n    return x\n")
    figure = netc.compile(source, target="numpy").plot().figure
    assert len(figure.blocks) == 182
    found = placed(figure)
    assert found.height > 60 * 100


@pytest.mark.parametrize("edges, ranks", [
    ([(0, 1, 1, 1), (1, 2, 1, 1), (3, 2, 1, 1)], [0, 1, 2, 1]),            # a late source stands near its use
    ([(0, 1, 1, 1), (0, 2, 1, 1), (1, 3, 1, 1), (2, 3, 2, 1)], [0, 1, 1, 3]),
    ([], [0, 0]),
])
def test_ranks(edges, ranks):
    found = assign(len(ranks), edges)
    assert all(found[b] - found[a] >= length for a, b, length, _ in edges)
    assert sum(found[b] - found[a] for a, b, *_ in edges) == sum(ranks[b] - ranks[a] for a, b, *_ in edges)


@pytest.mark.parametrize("seed", range(8))
def test_ranks_are_as_short_as_can_be(seed):
    """Against every assignment, tried one by one."""
    from itertools import product
    rng = np.random.default_rng(seed)
    count = 6
    edges = sorted({(int(a), int(b), int(rng.integers(1, 3)), int(rng.integers(1, 4)))
                    for a, b in (sorted(rng.choice(count, 2, replace=False)) for _ in range(8))})
    def cost(ranks):
        return sum(w * (ranks[b] - ranks[a]) for a, b, _, w in edges)
    found = assign(count, edges)
    best = min(cost(ranks) for ranks in product(range(8), repeat=count)
               if all(ranks[b] - ranks[a] >= length for a, b, length, _ in edges))
    assert cost(found) == best and all(found[b] - found[a] >= length for a, b, length, _ in edges)
    with pytest.raises(ValueError, match="circle"):
        assign(2, [(0, 1, 1, 1), (1, 0, 1, 1)])


def test_places_are_the_least_squares_under_the_distances():
    x = solve(5, [(1.0, 0, k, 0.0) for k in (1, 2, 3, 4)], [(1, 2, 100), (2, 3, 100), (3, 4, 100)])
    np.testing.assert_allclose(x - x[0], [0, -150, -50, 50, 150], atol=0.01)
    x = solve(3, [(1.0, 0, 1, 5.0)], [(1, 2, GAP)], [(2, 0.001)])
    assert x[1] - x[0] == pytest.approx(5, abs=0.01) and x[2] - x[1] == pytest.approx(GAP, abs=0.01)
    np.testing.assert_allclose(np.diff(solve(2, [(2.0, 0, 1, 7.0)], [])), [7], atol=1e-3)
    scipy = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(1)
    pulls = [(float(rng.uniform(0.1, 9)), int(a), int(b), float(rng.normal() * 20))
             for a, b in (rng.choice(12, 2, replace=False) for _ in range(20))]
    distances = [(k, k + 1, float(rng.uniform(1, 30))) for k in range(11) if k % 4 != 3]

    def cost(x):
        return sum(w * (x[b] - x[a] - o) ** 2 / 2 for w, a, b, o in pulls)
    ours = solve(12, pulls, distances)
    assert all(ours[b] - ours[a] >= least - ROOM for a, b, least in distances)
    start = np.arange(12) * 40.0
    best = scipy.minimize(cost, start, constraints=[{"type": "ineq", "fun": lambda x, a=a, b=b, d=d: x[b] - x[a] - d}
                                                    for a, b, d in distances], options={"maxiter": 500, "ftol": 1e-10})
    assert cost(ours) <= best.fun * (1 + 1e-3) + 1e-2


def test_text_is_measured_and_cut():
    assert width("ii", 10) < width("WW", 10) < width("WW", 10, bold=True) + 1 and width("", 12) == 0
    assert shortened("short", 10, 100) == "short"
    cut = shortened("a very long title that goes on", 10, 60)
    assert cut.endswith("…") and width(cut, 10) <= 60
    assert width("中", 10) == 10


@pytest.mark.parametrize("kind, settings, text", [
    ("Conv2D", {"filters": "16", "kernel_size": "3", "strides": "2", "padding": "same", "activation": "relu"},
     "3×3, 16, relu, /2"),
    ("Conv2D", {"filters": "16", "kernel_size": "(3, 5)"}, "3×5, 16"),
    ("MaxPool2D", {"size": "3", "strides": "1"}, "3×3, /1"),
    ("Conv1D", {"filters": "8", "kernel_size": "3"}, "3, 8"), ("Dense", {"units": "10", "use_bias": "false"}, "10"),
    ("Reshape", {"sizes": "(4, 4, 1)"}, "4×4×1"),
    ("MultiHeadAttention", {"heads": "4", "key_dim": "16", "causal": "true"},
                                                   "4 heads, key_dim 16, causal")])
def test_settings_in_short(kind, settings, text):
    assert settings_text(kind, settings) == text
