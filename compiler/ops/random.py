"""Counter-based random bits: a pure function of the seed, the element's index and a stream."""

from __future__ import annotations

from ...runtime.deferred import np
from ..ir import Node, Primitive, node
from ..types import TensorType, i32, i64
from .rules import check_count, check_shape, counted, numbers, refuse, sampler

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF


def _infer_random_bits(types, attrs) -> TensorType:
    check_count("random_bits", types, 1)
    if types[0] != TensorType(i64):
        refuse(f"random_bits takes a seed of type {TensorType(i64)}, got {types[0]}")
    check_shape("random_bits", attrs["shape"])
    if not 0 <= attrs["stream"] <= MASK:
        refuse(f"random_bits: the stream {attrs['stream']} is not in [0, 2**32)")
    return TensorType(i32, attrs["shape"])


CHUNK = 8192            # elements whose words stay in the cache through all rounds


def _evaluate_random_bits(arrays, current, sizes):
    shape = numbers(current.shape, sizes)
    seed = int(arrays[0])
    keys = [seed & MASK, seed >> 32 & MASK]
    result = np.empty(int(np.prod(shape, dtype=np.int64)), np.int32)
    for start in range(0, result.size, CHUNK):
        index = np.arange(start, min(start + CHUNK, result.size), dtype=np.uint64)
        words = [index & np.uint64(MASK), index >> np.uint64(32),
                 np.full_like(index, current.attrs["stream"]), np.zeros_like(index)]
        result[start:start + CHUNK] = _philox(words, keys)[0] >> np.uint64(8)
    return result.reshape(shape)


def _philox(words: list, keys: list[int]) -> list:
    """Philox4x32-10 (Salmon et al., 2011) on four 32-bit words held in uint64 arrays, and two key words."""
    mask, shift = np.uint64(MASK), np.uint64(32)
    words = [word.copy() for word in words]
    for _ in range(ROUNDS):
        first, second = (words[2 * k] * np.uint64(MULTIPLIERS[k]) for k in (0, 1))
        # In place: most of the time would go into fresh memory.
        for product, other, key in ((second, words[1], keys[0]), (first, words[3], keys[1])):
            np.bitwise_xor(other, np.uint64(key), out=other)
            np.bitwise_xor(other, product >> shift, out=other)
            np.bitwise_and(product, mask, out=product)
        words = [words[1], second, words[3], first]
        keys = [(key + weyl) & MASK for key, weyl in zip(keys, WEYL)]
    return words


RANDOM_BITS = Primitive("random_bits", _infer_random_bits, _evaluate_random_bits, None, sampler("random_bits"))


def random_bits(seed: Node, shape, stream: int) -> Node:
    """i32 in [0, 2**24): Philox4x32-10 with the seed (i64) as key and (element index, stream) as counter."""
    return node(RANDOM_BITS, (seed,), shape=counted(shape, "random_bits"), stream=int(stream))


PRIMITIVES = (RANDOM_BITS,)
