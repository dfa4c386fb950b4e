"""How wide text is: the advance widths of Helvetica, which its metric-compatible substitutes (Arial, Liberation Sans)
share."""

from __future__ import annotations

# Thousandths of the font's size, from the space to the tilde.
_REGULAR = (278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556,
            556, 556,
            556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667,
            556, 833,
            722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556,
            500, 556,
            556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500,
            500, 334,
            260, 334, 584)
_BOLD = (278, 333, 474, 556, 556, 889, 722, 238, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556,
         556, 556,
         556, 556, 333, 333, 584, 584, 584, 611, 975, 722, 722, 722, 722, 667, 611, 778, 722, 278, 556, 722, 611, 833,
         722, 778,
         667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 333, 278, 333, 584, 556, 333, 556, 611, 556, 611, 556,
         333, 611,
         611, 278, 278, 556, 278, 889, 611, 611, 611, 611, 389, 556, 333, 611, 556, 778, 556, 556, 500, 389, 280,
         389, 584)
_OTHER = {"·": 278, "×": 584, "→": 1000, "…": 1000, "−": 584}
_WIDEST = 1000               # of a letter that is not known


def width(text: str, size: float, bold: bool = False) -> float:
    """The width of a line of text in a font of this size."""
    table = _BOLD if bold else _REGULAR
    return size * sum(table[ord(c) - 32] if 32 <= ord(c) < 127 else _OTHER.get(c, _WIDEST) for c in text) / 1000


def shortened(text: str, size: float, most: float, bold: bool = False) -> str:
    """The text, cut with an ellipsis where it is wider than ``most``."""
    if width(text, size, bold) <= most:
        return text
    while text and width(text + "…", size, bold) > most:
        text = text[:-1]
    return text.rstrip(" ,·") + "…"
