"""Counter-based random bits, Philox4x32-10: a pure function of (seed, element index, stream).

key = (seed's low 32 bits, high 32 bits), counter = (index low, index high, stream, 0); the result is word 0 of the
block shifted right by 8, an int32 in [0, 2**24).  (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.)
"""

from __future__ import annotations

from .kinds import int32, int64, intrinsic
from .simd import I32, Value

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF


def _wide_product(a: Value, multiplier: int) -> tuple[Value, Value]:
    """High and low 32 bits of the product of int64 lanes that hold 32-bit words."""
    product = a * multiplier
    return product.shift_right_logical(32), product & MASK


def emit(seed: Value, index: Value, stream: Value) -> Value:
    """int64 lanes in, int32 lanes out.  Words live in 64-bit lanes: the products need them."""
    words = [index & MASK, index.shift_right_logical(32), stream & MASK, stream ^ stream]
    keys = [seed & MASK, seed.shift_right_logical(32)]
    for _ in range(ROUNDS):
        high_0, low_0 = _wide_product(words[0], MULTIPLIERS[0])
        high_1, low_1 = _wide_product(words[2], MULTIPLIERS[1])
        words = [high_1 ^ words[1] ^ keys[0], low_1, high_0 ^ words[3] ^ keys[1], low_0]
        keys = [(key + weyl) & MASK for key, weyl in zip(keys, WEYL)]
    return words[0].shift_right_logical(8).to(I32)


@intrinsic(int32, int64, int64, int64)
def random_bits(builder, seed, index, stream):
    """``random_bits(seed, index, stream)``: int32 in [0, 2**24); stream in [0, 2**32)."""
    return emit(*(Value(builder, value) for value in (seed, index, stream))).value
