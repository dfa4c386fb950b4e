"""The rewrite rules of ``simplify``, by subject.  Each rule's docstring says what becomes what."""

from . import arithmetic, contraction, movement, reduction, scans, windows
from .table import RULES, Rule

__all__ = ["RULES", "Rule", "arithmetic", "contraction", "movement", "reduction", "scans", "windows"]
