"""The random bits of ``runtime.random`` for a GPU: Philox4x32-10 in unsigned 64-bit words, of which the low half
counts."""

from __future__ import annotations

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF


def define(uint64, int32):
    """``random_bits(seed, index, stream)`` of Numba's types, or NumPy's."""
    mask, shift, byte = uint64(MASK), uint64(32), uint64(8)
    multiplier_0, multiplier_1 = (uint64(m) for m in MULTIPLIERS)
    weyl_0, weyl_1 = (uint64(w) for w in WEYL)

    def random_bits(seed, index, stream):
        key_0, key_1 = uint64(seed & MASK), uint64((seed >> 32) & MASK)
        word_0, word_1 = uint64(index & MASK), uint64((index >> 32) & MASK)
        word_2, word_3 = uint64(stream & MASK), uint64(0)
        for _ in range(10):
            product_0, product_1 = word_0 * multiplier_0, word_2 * multiplier_1
            word_0 = (product_1 >> shift) ^ word_1 ^ key_0
            word_2 = (product_0 >> shift) ^ word_3 ^ key_1
            word_1, word_3 = product_1 & mask, product_0 & mask
            key_0, key_1 = (key_0 + weyl_0) & mask, (key_1 + weyl_1) & mask
        return int32(word_0 >> byte)
    return random_bits
