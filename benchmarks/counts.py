"""Counts the operations of a function, and the bytes that it reads and writes, by hand."""

import math
from collections.abc import Callable

import jax
from jax.extend import core
from jax.interpreters import partial_eval

_ARITHMETIC = {"add", "add_any", "sub", "mul", "div", "max", "min", "neg", "square", "integer_pow", "abs", "sign"}
_COMPARED = {"gt", "lt", "ge", "le", "eq", "ne", "select_n", "and", "or", "not"}
_SPREAD = _ARITHMETIC | _COMPARED | {"pow", "rem", "atan2", "clamp"}  # smaller operands are written out in full first


def operations(function: Callable, *arguments) -> int:
    """Returns two for each multiply and add of a convolution or product, one for each number that arithmetic gives or
    a sum takes.

    Exponentials and the like are not among them, nor multiplications with padding, as XLA does not count them.
    """
    return _operations(_needed(function, *arguments))


def traffic(function: Callable, *arguments) -> int:
    """Returns the bytes that are read and written where every operation reads its operands and writes its result.

    That is a program before anything is fused: where fusion keeps a map in registers, less is moved. Of operations that
    XLA is given as several (`gather`, `logistic`, `stack`, powers) all of them count.
    """
    return _traffic(_needed(function, *arguments))


def _needed(function: Callable, *arguments) -> core.Jaxpr:
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]  # as XLA, without what nobody needs


def _operations(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = _inner(equation)
        if inner:
            total += sum(times * _operations(part) for times, part in inner)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "dot_general":
            total += _product(equation)
        elif name in _ARITHMETIC | _COMPARED:
            total += equation.outvars[0].aval.size
        elif name in ("reduce_sum", "reduce_max", "reduce_min"):
            total += equation.invars[0].aval.size
    return total


def _traffic(jaxpr: core.Jaxpr) -> int:
    total, seen, same = 0, {}, {}
    for equation in jaxpr.eqns:
        operands = tuple(_identity(value, same) for value in equation.invars)
        key = (equation.primitive.name, str(equation.params), operands)
        if key in seen:  # computed once, whoever asks for it
            same.update(zip(equation.outvars, seen[key], strict=True))
            continue
        seen[key] = equation.outvars
        inner = _inner(equation)
        total += sum(times * _traffic(part) for times, part in inner) if inner else _moved(equation)
        if not inner and equation.primitive.name in _SPREAD:
            total += _spread(equation, operands, seen)
    return total


def _identity(value, same: dict):
    """What tells two operands apart: the variable first computed so, or the number itself."""
    return (repr(value.val), str(value.aval)) if isinstance(value, core.Literal) else same.get(value, value)


def _moved(equation) -> int:
    """Bytes of the operands and results of one operation."""
    name, parameters = equation.primitive.name, equation.params
    written = sum(map(_bytes, equation.outvars))
    if name in ("transpose", "stop_gradient"):  # another order of the same memory
        return 0
    if name in ("slice", "dynamic_slice"):  # no more is read than is kept
        return 2 * written
    if name == "gather":  # read, written, checked against the edges, and filled there
        return int(6.5 * written)
    if name == "stack":  # of arrays that are given another axis first
        return 4 * written
    if name == "logistic":  # one by one and exp(-x): five operations and a map of ones
        return 11 * written
    if name == "square":
        return 3 * written
    if name == "integer_pow":
        power = abs(parameters["y"])
        return 3 * written * (power.bit_length() + power.bit_count() - 2 + (parameters["y"] < 0))
    return written + sum(map(_bytes, equation.invars))


def _spread(equation, operands: tuple, seen: dict) -> int:
    """Bytes for operands that are smaller than the result: written out in full, once, and read so."""
    shape, extra = equation.outvars[0].aval.shape, 0
    for value, identity in zip(equation.invars, operands, strict=True):
        if value.aval.shape == shape:
            continue
        full = math.prod(shape) * value.aval.dtype.itemsize
        extra += full - _bytes(value)
        if ("spread", identity, shape) not in seen:
            extra += full + _bytes(value)
            seen["spread", identity, shape] = None
    return extra


def _bytes(value) -> int:
    size = getattr(getattr(value.aval, "dtype", None), "itemsize", 0)  # keys of random numbers have none
    return math.prod(value.aval.shape) * size


def _inner(equation) -> list[tuple[int, core.Jaxpr]]:
    """The programs inside an operation, and how often each runs."""
    if equation.primitive.name == "cond":  # of code for different platforms the last is for all that have none
        return [(1, equation.params["branches"][-1].jaxpr)]
    times = equation.params["length"] if equation.primitive.name == "scan" else 1
    found = []
    for value in equation.params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append((times, value.jaxpr))
        elif isinstance(value, core.Jaxpr):
            found.append((times, value))
    return found


def _product(equation) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    return 2 * depth * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation) -> int:
    """Of each axis the pairs of kernel and input positions that meet, so that neither padding nor holes count."""
    numbers, left, right = equation.params["dimension_numbers"], *(v.aval.shape for v in equation.invars[:2])
    out = equation.outvars[0].aval.shape
    pairs = 1
    for axis in range(2, len(left)):
        pairs *= _meeting(
            left[numbers.lhs_spec[axis]],
            right[numbers.rhs_spec[axis]],
            out[numbers.out_spec[axis]],
            equation.params["window_strides"][axis - 2],
            equation.params["padding"][axis - 2][0],
            equation.params["lhs_dilation"][axis - 2],
            equation.params["rhs_dilation"][axis - 2],
        )
    batch, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
    return 2 * batch * features * right[numbers.rhs_spec[1]] * pairs


def _meeting(size: int, kernel: int, out: int, stride: int, before: int, spread: int, holes: int) -> int:
    count = 0
    for tap in range(kernel):
        offset = tap * holes - before  # position in the spread input of output 0
        for place in range(out):
            at = place * stride + offset
            count += 0 <= at <= (size - 1) * spread and at % spread == 0
    return count
