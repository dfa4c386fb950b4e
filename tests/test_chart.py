"""The curves of a History in a notebook."""

from __future__ import annotations

from xml.etree import ElementTree

from netc.runtime.chart import WIDTH, lines

SVG = "{http://www.w3.org/2000/svg}"


def drawn(curves):
    """(names of the legend, the dashes of the pieces of line, where everything ends)."""
    root = ElementTree.fromstring(lines("loss", curves))
    names = [text.text for text in root.iter(SVG + "text") if text.get("font-weight") is None
             and text.get("text-anchor") is None]
    return names, [piece.get("stroke-dasharray") for piece in root.iter(SVG + "polyline")], int(root.get("height"))


def test_each_curve_has_its_piece_of_line_in_the_legend():
    names, dashes, height = drawn({"loss": [3, 2, 1], "val_loss": [3, 2.5, 2]})
    assert names == ["loss", "val_loss"] and len(dashes) == 4 and dashes.count(None) == 2
    more, _, taller = drawn({f"a_rather_long_name_{number}": [number, 2] for number in range(5)})
    assert len(more) == 5 and taller > height


def test_a_models_only_loss_is_drawn_once():
    names, dashes, _ = drawn({"loss": [3, 2], "error": [3, 2], "val_loss": [4, 3], "val_error": [4, 3]})
    assert names == ["loss", "val_loss"] and len(dashes) == 4


def test_nothing_lies_on_anything_else():
    """The curves stay below the legend, and inside the picture."""
    text = lines("loss", {"loss": [1.0, 2.0, 9.0], "val_loss": [9.0, 1.0, 2.0]})
    root = ElementTree.fromstring(text)
    pieces = [[tuple(map(float, point.split(","))) for point in piece.get("points").split()]
              for piece in root.iter(SVG + "polyline")]
    legend, curves = pieces[:2], pieces[2:]
    lowest = max(y for piece in legend for _, y in piece)
    assert all(lowest < y < int(root.get("height")) and 0 <= x <= WIDTH for curve in curves for x, y in curve)
