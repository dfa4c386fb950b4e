"""Elementary functions in Python alone, which kernels of every target compile as they are."""

from __future__ import annotations


def maximum(a, b):
    """The larger one; NaN if either is."""
    return a if (a > b) | (a != a) else b


def minimum(a, b):
    """The smaller one; NaN if either is."""
    return a if (a < b) | (a != a) else b


def floordiv(a, b):
    return a // b


def mod(a, b):
    return a - (a // b) * b


def sign_integer(x):
    return (x > 0) - (x < 0)
