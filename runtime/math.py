"""Elementary functions of kernels: ``exp_f32(x)``, ``exp_f64(x)``, and so on.

The float32 functions are branch-free polynomials, emitted inline, so that LLVM vectorises the loops that call them;
one that looks its polynomial up in a table has a form for vectors, which LLVM knows of, and is put in place later.  A
value's result does not depend on whether it fell into the vector part of a loop or its tail.  They are within 2
units in the last place over all of float32, denormals and specials included (pow, sin and cos are correctly rounded
but for a few ties).  The float64 ones that need a polynomial are libm's, one call a value.

``EMIT[name]`` maps a ``simd.Value`` (float32 lanes; f64 too for those in EXACT) to the result, for kernels that emit
vectors themselves.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from fractions import Fraction

from llvmlite import ir

from .host import is_avx
from .kinds import float32, float64, intrinsic
from .simd import F32, F64, I32, I64, Value, call_library, constant, lanes, like, use_whole_vectors

INFINITY, NAN = math.inf, math.nan
LOG2_E = 1.4426950408889634
# ln 2 in two float32: the first has trailing zeros, so that multiples of it by small integers are exact even unfused.
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
# Adding and subtracting this rounds a small float32 to an integer, which then stands in the sum's low bits; unlike a
# conversion it is defined for NaN and infinity.
ROUND_F32 = 12582912.0          # 1.5 * 2**23
ROUND_F64 = 6755399441055744.0  # 1.5 * 2**52
ROUND_BITS_F64 = 0x4338000000000000


# --- float32 ------------------------------------------------------------------------------------------------------


def _constant(x: Value, number: float) -> Value:
    """The number in the type of x."""
    return Value(x.builder, constant(x.type, number))


def _bits_of(number: float) -> int:
    return struct.unpack("i", struct.pack("f", number))[0]


def _power_of_two(n: Value) -> Value:
    """2**n for int32 n in the range of normal numbers."""
    return ((n + 127) << 23).as_float()


def _reduced(x: Value) -> tuple[Value, Value, Value]:
    """The nearest multiple n of ln 2, as int32 and as float, and x without n times the first part of ln 2."""
    shifted = x.fma(LOG2_E, ROUND_F32)
    n = shifted - ROUND_F32
    return shifted.bits() - _bits_of(ROUND_F32), n, n.fma(-LN2_HIGH, x)


def _clamp(x: Value, low: float, high: float) -> Value:
    """x between the bounds; NaN stays."""
    x = x.gt(high).where(high, x)
    return x.lt(low).where(low, x)


def _table(builder, name: str, numbers: Sequence[float], element: ir.Type) -> ir.Value:
    """A constant array in the module, as a pointer to its first element."""
    module = builder.module
    if name not in module.globals:
        array = ir.Constant(ir.ArrayType(element, len(numbers)), [constant(element, n) for n in numbers])
        table = ir.GlobalVariable(module, array.type, name)
        table.linkage, table.global_constant, table.initializer = "internal", True, array
    return builder.bitcast(module.globals[name], element.as_pointer())


def _look_up(name: str, numbers: Sequence[float], index: Value, element: ir.Type = F64) -> Value:
    builder = index.builder
    pointer = _table(builder, name, numbers, element)
    if not isinstance(index.type, ir.VectorType):
        return Value(builder, builder.load(builder.gep(pointer, [index.value], inbounds=True)))
    result = ir.Constant(like(index.type, element), ir.Undefined)
    for lane in range(index.type.count):
        place = ir.Constant(I32, lane)
        found = builder.load(builder.gep(pointer, [builder.extract_element(index.value, place)], inbounds=True))
        result = builder.insert_element(result, found, place)
    return Value(builder, result)


# What looks up in a table of 4, by how many float32 at once.
PERMUTES = {8: "llvm.x86.avx.vpermilvar.ps.256", 16: "llvm.x86.avx512.vpermilvar.ps.512"}


def _permuted() -> list[int]:
    """Those of PERMUTES that the host has."""
    return [count for count in PERMUTES if count <= lanes(F32)] if is_avx() else []


def _one_of_4(name: str, numbers: Sequence[float], index: Value) -> Value:
    """Of 4 float32 the one whose number is in the low bits of an int32: one instruction of AVX and AVX-512."""
    count = index.type.count if isinstance(index.type, ir.VectorType) else 1
    if count in _permuted():
        table = ir.Constant(ir.VectorType(F32, count), [constant(F32, number) for number in numbers] * (count // 4))
        return Value(index.builder, call_library(index.builder, PERMUTES[count], table.type, [table, index.value]))
    return _look_up(name, numbers, (index & 3).to(I64), F32)


# (exp(r) - 1 - r) / r**2 for r within ln 2 / 2.
EXP = 0.5, 0.16666515171527863, 0.04166845604777336, 0.008369418792426586, 0.0013813144760206342


def exp(x: Value) -> Value:
    # Far below, half of n makes a factor of 0: to underflow takes long, and what a mask hides is far below.
    n, multiple, high = _reduced(_clamp(x, -176.0, 89.0))
    r = multiple.fma(-LN2_LOW, high)
    q = r.estrin(*EXP)
    # In two factors: one alone would overflow below the largest result, and lose the denormals.
    half = n >> 1
    factor = _power_of_two(half)
    return (r * r).fma(q, r).fma(factor, factor) * _power_of_two(n - half)


def _exp_roughly(x: Value) -> Value:
    """exp to 2**-22, for x between -80 and 80 (or NaN): enough for what is subtracted from 1."""
    shifted = x.fma(LOG2_E, ROUND_F32)
    r = (shifted - ROUND_F32).fma(-math.log(2), x)
    q = r.estrin(0.4999922811985016, 0.16667117178440094, 0.04189065098762512, 0.0083124665543437)
    scale = ((shifted.bits() << 23) + (127 << 23)).as_float()       # the sum's low bits are the power of two
    return (r * r).fma(q, r).fma(scale, scale)


def _expm1_of(x: Value) -> Value:
    """expm1 but for the sign of zero."""
    n, multiple, high = _reduced(_clamp(x, -20.0, 89.0))
    r = multiple.fma(-LN2_LOW, high)
    lost = multiple.fma(-LN2_LOW, high - r)         # to rounding
    q = r.estrin(0.5, 0.1666666567325592, 0.04166628047823906, 0.00833350419998169, 0.0013945752289146185,
                 0.0001978926156880334)
    e = r + (r * r).fma(q, lost)
    half = _power_of_two(n - 1)             # half, because 2**128 is no float32
    return half.fma(e, half - 0.5) * 2.0


def expm1(x: Value) -> Value:
    return x.eq(0.0).where(x, _expm1_of(x))


def expm1_nonpositive(x: Value) -> Value:
    """expm1 of what is not above 0; either zero gives 0."""
    # Nothing overflows here, and what rounding r loses does not count: nothing where n is 0, little beside the result
    # elsewhere.
    n, multiple, high = _reduced(x.lt(-20.0).where(-20.0, x))
    r = multiple.fma(-LN2_LOW, high)
    e = (r * r).fma(r.estrin(*EXP), r)
    power = _power_of_two(n)
    return power.fma(e, power - 1.0)


def _log_parts(x: Value) -> tuple[Value, Value]:
    """(e, m): x = m 2**e with m in [sqrt(1/2), sqrt(2)), e an int32; x normal and positive."""
    offset = _bits_of(math.sqrt(0.5))
    e = (x.bits() - offset) >> 23
    return e, (x.bits() - (e << 23)).as_float()


def _log_sum(e: Value, f: Value) -> Value:
    """e ln 2 + log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1]."""
    p = f.estrin(0.3333331346511841, -0.25000008940696716, 0.20002134144306183, -0.16668006777763367,
                 0.14219224452972412, -0.12405135482549667, 0.11890324205160141, -0.11679653078317642,
                 0.06746596843004227)
    square = f * f
    tail = (square * f).fma(p, e * LN2_LOW)
    tail = square.fma(-0.5, tail)
    return e.fma(LN2_HIGH, f + tail)


def log(x: Value) -> Value:
    is_small = x.lt(1.17549435e-38)
    e, m = _log_parts(is_small.where(x * 33554432.0, x))
    e = e.to(F32) - is_small.where(_constant(x, 25.0), 0.0)
    result = _log_sum(e, m - 1.0)
    result = x.eq(0.0).where(-INFINITY, result)
    # Not x >= 0 is also true of NaN.
    result = x.ge(0.0).where(result, NAN)
    return x.eq(INFINITY).where(INFINITY, result)


def log1p(x: Value) -> Value:
    u = x + 1.0
    e, m = _log_parts(u)
    # f = (1 + x) / 2**e - 1 from x itself, so that what u lost in rounding counts; beyond 2**24 that is nothing.
    scale = _power_of_two(_constant(e, 0) - e)
    f = x.gt(16777216.0).where(m - 1.0, x.fma(scale, scale - 1.0))
    result = _log_sum(e.to(F32), f)
    result = x.eq(-1.0).where(-INFINITY, result)
    result = x.ge(-1.0).where(result, NAN)
    result = x.eq(INFINITY).where(INFINITY, result)
    return x.eq(0.0).where(x, result)


def tanh(x: Value) -> Value:
    # t + t r, with r a quotient of polynomials in t**2 for small t; for large ones 1 - 2 / (exp(2 t) + 1).  Either way
    # what is added is small beside the first term, and its rounding errors with it.
    t = x.call("fabs")
    s = t * t
    is_large = t.gt(1.1)
    above = is_large.where(-2.0, s * s.fma(-0.014660079963505268, -0.3333333134651184))
    e = _exp_roughly(t.gt(10.0).where(10.0, t) * 2.0)
    below = is_large.where(e + 1.0, s.fma(0.01568816974759102, 0.4439799189567566).fma(s, 1.0))
    first = is_large.where(1.0, t)
    return first.fma(above / below, first).sign_of(x)


def sigmoid(x: Value) -> Value:
    # 1 / (1 + 2**n (1 + e)), all over 2**(n/2), with which nothing overflows and the quotient alone is rounded to a
    # denormal.  The larger of the powers is added last: what was rounded before is small beside it.
    n, multiple, high = _reduced(-_clamp(x, -176.0, 88.0))
    r = multiple.fma(-LN2_LOW, high)
    e = (r * r).fma(r.estrin(*EXP), r)
    half = n >> 1
    one, power = _power_of_two(0 - half), _power_of_two(n - half)
    least, most = one.lt(power).where(one, power), one.gt(power).where(one, power)
    return one / (e.fma(power, least) + most)


def _erf_of_exp(x: Value) -> Value:
    t = _clamp(x.call("fabs"), 0.0, 4.0)
    s = t * t
    # 1 - exp(polynomial) for large arguments, an odd polynomial for small ones (N. Juffa's coefficients).
    large = (t.fma(-1.72853470e-5, 3.83197126e-4)).fma(s, t.fma(-3.88396438e-3, 2.42546219e-2))
    large = large.fma(t, -1.06777877e-1).fma(t, -6.34846687e-1).fma(t, -1.28717512e-1)
    large = 1.0 - _exp_roughly(large.fma(t, 0.0 - t))
    small = s.estrin(1.28379166e-1, -3.76125336e-1, 1.12819925e-1, -2.67681349e-2, 4.99119423e-3, -5.96761703e-4)
    return t.gt(0.927734375).where(large.sign_of(x), small.fma(x, x))


# Points, of which the nearest to a magnitude is known by ERF_STEP; erf there, which hardly has to be rounded; and the
# factors of the powers of the distance, where the point is 0 without the distance itself.
ERF_STEP = 1.129
ERF = (
    (0.0, 1.134371, 2.2558026, 3.4029913),
    (0.0, 0.8913395, 0.9985782, 0.9999985),
    (0.12837917, 0.31160617, 0.0069581107, 1.0542129e-05),
    (1.9583555e-07, -0.3534783, -0.01569582, -3.5879268e-05),
    (-0.37613377, 0.1634432, 0.021280376, 7.818867e-05),
    (1.0903872e-04, 0.025156632, -0.018776888, -1.2097597e-04),
    (0.11203841, -0.06038049, 0.010611957, 1.3760621e-04),
    (0.0032322253, 0.015860043, -0.0029218206, -1.2501625e-04),
    (-0.03429253, 0.00893038, -8.6684996e-04, 1.0429439e-04),
    (0.009307762, -0.0051015643, 9.583275e-04, -5.6033547e-05),
)


def _erf_of_table(x: Value) -> Value:
    t = x.call("fabs")
    t = t.gt(3.95).where(3.95, t)           # erf is 1 from there on
    place = t.fma(1 / ERF_STEP, ROUND_F32).bits()
    point, value, slope, *others = (_one_of_4(f"netc_erf_table_{k}", row, place) for k, row in enumerate(ERF))
    d = t - point
    first = value.gt(d).where(value, d)     # d where the point is 0
    return (d.fma(d.estrin(*others).fma(d, slope), first).bits() | (x.bits() & -2 ** 31)).as_float()


def erf(x: Value) -> Value:
    return (_erf_of_table if is_avx() else _erf_of_exp)(x)


# --- sine and cosine: the quadrant to the last float32, in float64 ------------------------------------------------


def _two_over_pi_table() -> list[list[float]]:
    """Three rows of T[k] = 2**k * 2/pi mod 4, k = 0 .. 104: T is their sum, the first two of 29 and 27 bits, so that
    their products with a 24-bit number are exact in float64."""
    bits = 240
    # pi by Machin's formula in integers: no library has enough digits.
    one = 1 << (bits + 32)

    def arctan_inverse(n):
        total, term, k = 0, one // n, 1
        while term:
            total += term // k if k % 4 == 1 else -(term // k)
            term //= n * n
            k += 2
        return total
    pi = Fraction(4 * (4 * arctan_inverse(5) - arctan_inverse(239)), one)
    rows: list[list] = [[], [], []]
    for k in range(105):
        rest = (2 / pi * 2 ** k) % 4
        for row, unit in zip(rows, (Fraction(1, 2 ** 27), Fraction(1, 2 ** 54), None)):
            part = rest if unit is None else (rest // unit) * unit
            row.append(float(part))
            rest -= part
    return rows


_ROWS = _two_over_pi_table()


def _quadrant(x: Value) -> tuple[Value, Value]:
    """(n, r): x = n pi/2 + r, n an int64 right modulo 4, |r| <= pi/4 a float64; x finite."""
    exponent = ((x.bits() >> 23) & 255) - 150
    exponent = exponent.lt(0).where(0, exponent)
    exponent = exponent.gt(104).where(104, exponent)        # infinity and NaN
    index = exponent.to(I64)
    digits = x.to(F64) * ((_constant(index, 1023) - index) << 52).as_float()
    high = digits * _look_up("netc_two_over_pi_0", _ROWS[0], index)
    middle = digits * _look_up("netc_two_over_pi_1", _ROWS[1], index)
    low = digits * _look_up("netc_two_over_pi_2", _ROWS[2], index)
    n = high + ROUND_F64
    fraction = (high - (n - ROUND_F64)) + middle        # may pass 1/2 by a hair: the polynomials allow it
    return n.bits() & 3, (fraction + low) * (math.pi / 2)


def _circular(x: Value, turn: int) -> Value:
    """sin(x + turn * pi/2)"""
    n, r = _quadrant(x)
    n = n + turn
    z = r * r
    sine = (z * r).fma(z.horner(-0.16666666666626515, 0.008333333324388757, -0.0001984126335045506,
                                2.7555258956879883e-06, -2.4754583335756434e-08), r)
    cosine = z.fma(z.horner(-0.49999999999999445, 0.04166666666648211, -0.001388888886983212, 2.480157834057241e-05,
                            -2.7555189195511523e-07, 2.0627303279868835e-09), 1.0)
    result = (n & 1).eq(0).where(sine, cosine)
    result = (result.bits() ^ ((n & 2) << 62)).as_float().to(F32)
    return x.call("fabs").lt(INFINITY).where(result, NAN)


def sin(x: Value) -> Value:
    return x.eq(0.0).where(x, _circular(x, 0))


def cos(x: Value) -> Value:
    return _circular(x, 1)


# --- pow: exp2(y log2 x) in float64 -------------------------------------------------------------------------------


def _log2_f64(x: Value) -> Value:
    """log2 of a positive normal float64, to 2**-50 or so."""
    offset = 0x3FE6A09E667F3BCD             # sqrt(1/2)
    e = (x.bits() - offset) >> 52
    m = (x.bits() - (e << 52)).as_float()
    s = (m - 1.0) / (m + 1.0)
    q = (s * s).horner(2.885390081777927, 0.9617966939236138, 0.5770780174738905, 0.4121983700239229,
                       0.3206186045325313, 0.26137197944108354, 0.2438010897206714)
    # The conversion of a small integer to float64 by adding to 1.5 * 2**52: AVX2 has no instruction for int64.
    exponent = (e + ROUND_BITS_F64).as_float() - ROUND_F64
    return s.fma(q, exponent)


def _exp2_f64(x: Value) -> Value:
    """2**x for x in [-1000, 1000], to 2**-40 or so; NaN yields something."""
    shifted = x + ROUND_F64
    r = x - (shifted - ROUND_F64)
    p = r.fma(r.horner(0.6931471805480279, 0.24022650698145886, 0.05550410936082946, 0.00961812861021224,
                       0.001333345404102948, 0.00015403827827215107, 1.5309380250470836e-05,
                       1.3178786957356551e-06), 1.0)
    scale = ((shifted.bits() - ROUND_BITS_F64 + 1023) << 52).as_float()
    return p * scale


def pow(x: Value, y: Value) -> Value:
    magnitude = x.call("fabs").to(F64)
    log2 = _log2_f64(magnitude)
    log2 = magnitude.eq(0.0).where(-INFINITY, log2)
    log2 = magnitude.eq(INFINITY).where(INFINITY, log2)
    exponent = magnitude.eq(1.0).where(0.0, y.to(F64) * log2)
    exponent = _clamp(exponent, -200.0, 200.0)
    result = _exp2_f64(exponent).to(F32)
    # A negative base: the sign of an odd power, no real value of a fractional one.
    is_integer = y.call("trunc").eq(y)
    half = y * 0.5
    is_odd = Value(y.builder, y.builder.and_(is_integer.value, half.call("trunc").ne(half).value))
    sign_bit = Value(x.builder, x.bits().lt(0).value)
    flipped = Value(x.builder, x.builder.and_(sign_bit.value, is_odd.value))
    result = flipped.where(-result, result)
    is_real = Value(x.builder, x.builder.or_(is_integer.value, x.ge(0.0).value))
    is_real = Value(x.builder, x.builder.or_(is_real.value, x.eq(-INFINITY).value))
    result = is_real.where(result, NAN)
    missing = Value(x.builder, x.builder.or_(x.is_nan().value, y.is_nan().value))
    result = missing.where(NAN, result)
    is_one = Value(x.builder, x.builder.or_(x.eq(1.0).value, y.eq(0.0).value))
    return is_one.where(1.0, result)


# --- both precisions ----------------------------------------------------------------------------------------------


def sqrt(x: Value) -> Value:
    return x.call("sqrt")


def rsqrt(x: Value) -> Value:
    return 1.0 / x.call("sqrt")


def absolute(x: Value) -> Value:
    return x.call("fabs")


def floor(x: Value) -> Value:
    return x.call("floor")


def ceil(x: Value) -> Value:
    return x.call("ceil")


def round(x: Value) -> Value:
    """To the nearest integer, ties to even."""
    return x.call("rint")


def sign(x: Value) -> Value:
    """-1, 0 or 1; NaN of NaN."""
    result = x.gt(0.0).where(_constant(x, 1.0), 0.0)
    result = x.lt(0.0).where(-1.0, result)
    return x.is_nan().where(x, result)


def maximum(x: Value, y: Value) -> Value:
    """The larger; NaN if either is."""
    larger = x.gt(y).where(x, y)            # y where either is NaN
    return x.is_nan().where(x, larger)


def minimum(x: Value, y: Value) -> Value:
    """The smaller; NaN if either is."""
    smaller = x.lt(y).where(x, y)
    return x.is_nan().where(x, smaller)


EXACT = {"sqrt": sqrt, "rsqrt": rsqrt, "abs": absolute, "floor": floor, "ceil": ceil, "round": round, "sign": sign,
         "maximum": maximum, "minimum": minimum}
EMIT = {"exp": exp, "expm1": expm1, "expm1_nonpositive": expm1_nonpositive, "log": log, "log1p": log1p, "tanh": tanh,
        "sigmoid": sigmoid, "erf": erf, "sin": sin, "cos": cos, "pow": pow, **EXACT}
BINARY = {"pow", "maximum", "minimum"}
_FLOPS = {"fadd": 1, "fsub": 1, "fmul": 1, "fdiv": 1}
_CALLED_FLOPS = {"llvm.fma": 2, "llvm.sqrt": 1}


@functools.cache
def flops(name: str) -> int:
    """How many floating-point operations one f32 value of a function takes, as it is emitted; an fma is two."""
    module = ir.Module()
    kind = ir.FunctionType(F32, [F32] * (1 + (name in BINARY)))
    builder = ir.IRBuilder(ir.Function(module, kind, name).append_basic_block())
    EMIT[name](*(Value(builder, argument) for argument in builder.function.args))
    total = 0
    for instruction in builder.block.instructions:
        if instruction.opname == "call":
            total += _CALLED_FLOPS.get(instruction.callee.name.rsplit(".", 1)[0], 0)
        else:
            total += _FLOPS.get(instruction.opname, 0)
    return total


def _inline(name: str, emit, kind):
    """The function of scalars, as kernels call it."""
    def function(builder, *values):
        return emit(*(Value(builder, value) for value in values)).value
    return intrinsic(kind, *[kind] * (1 + (name in BINARY)))(function)


def _apart(name: str, emit):
    """The float32 function of scalars, as a function of the module's with forms for vectors, which LLVM calls where it
    makes vectors of a loop's turns."""
    def function(builder, x):
        return builder.call(_defined(builder.module, f"netc_{name}", emit), [x])
    return intrinsic(float32, float32)(function)


def _defined(module: ir.Module, name: str, emit) -> ir.Function:
    if name not in module.globals:
        counts = _permuted()
        for symbol, type_ in ((name, F32), *((f"{name}_of_{count}", ir.VectorType(F32, count)) for count in counts)):
            function = ir.Function(module, ir.FunctionType(type_, [type_]), symbol)
            use_whole_vectors(function)
            function.linkage = "weak_odr"
            function.attributes.add("nounwind")
            function.attributes.add("readnone")
            set.add(function.attributes, "willreturn")          # llvmlite does not know this one, nor the one below
            builder = ir.IRBuilder(function.append_basic_block())
            builder.ret(emit(Value(builder, function.args[0])).value)
        forms = ",".join(f"_ZGV_LLVM_N{count}v_{name}({name}_of_{count})" for count in counts)
        set.add(module.globals[name].attributes, f'"vector-function-abi-variant"="{forms}"')
    return module.globals[name]


(exp_f32, expm1_f32, expm1_nonpositive_f32, log_f32, log1p_f32, tanh_f32, sigmoid_f32, erf_f32, sin_f32, cos_f32,
 pow_f32, sqrt_f32, rsqrt_f32, abs_f32, floor_f32, ceil_f32, round_f32, sign_f32, maximum_f32, minimum_f32) = (
    _inline(name, emit, float32) for name, emit in EMIT.items())
if is_avx():
    erf_f32 = _apart("erf", erf)
for _function in (exp_f32, expm1_f32, expm1_nonpositive_f32, log_f32, log1p_f32, tanh_f32, sigmoid_f32, erf_f32):
    _function.is_long = True
(sqrt_f64, rsqrt_f64, abs_f64, floor_f64, ceil_f64, round_f64, sign_f64, maximum_f64, minimum_f64) = (
    _inline(name, emit, float64) for name, emit in EXACT.items())


# --- float64: libm ------------------------------------------------------------------------------------------------


def exp_f64(x):
    return math.exp(x)


def expm1_f64(x):
    return math.expm1(x)


expm1_nonpositive_f64 = expm1_f64


def log_f64(x):
    return math.log(x)


def log1p_f64(x):
    return math.log1p(x)


def tanh_f64(x):
    return math.tanh(x)


def sigmoid_f64(x):
    z = math.exp(-abs(x))
    return (1.0 if x >= 0 else z) / (1.0 + z) if x == x else x


def erf_f64(x):
    return math.erf(x)


def sin_f64(x):
    return math.sin(x)


def cos_f64(x):
    return math.cos(x)


def pow_f64(x, y):
    return math.pow(x, y)
