"""Counts the operations of a function, and the bytes that it reads and writes, from its jaxpr."""

import math
from collections.abc import Callable

import jax
from jax.extend import core
from jax.interpreters import partial_eval

_ARITHMETIC = {"add", "add_any", "sub", "mul", "div", "max", "min", "neg", "square", "integer_pow", "abs", "sign"}
_COMPARED = {"gt", "lt", "ge", "le", "eq", "ne", "select_n", "and", "or", "not"}
_BROADCAST = _ARITHMETIC | _COMPARED | {"pow", "rem", "atan2", "clamp"}  # smaller operands are broadcast first


def operations(function: Callable, *arguments) -> int:
    """Returns the number of arithmetic operations.

    Each multiplication and addition of a convolution or product counts two, each result of other arithmetic one, and
    each operand of a sum one. As in XLA's count, exponentials and similar functions and products with padding count
    nothing.
    """
    return _operations(_needed(function, *arguments))


def traffic(function: Callable, *arguments) -> int:
    """Returns the bytes that are read and written if every operation reads its operands and writes its result.

    This describes the program before fusion. Fusion keeps maps in registers and moves fewer bytes. If an operation is
    several operations to XLA (`gather`, `logistic`, `stack`, powers), all of them count.
    """
    return _traffic(_needed(function, *arguments))


def _needed(function: Callable, *arguments) -> core.Jaxpr:
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]  # without unused results, as XLA does


def _operations(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = programs_inside(equation)
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
        if key in seen:  # equal operations are computed once
            same.update(zip(equation.outvars, seen[key], strict=True))
            continue
        seen[key] = equation.outvars
        inner = programs_inside(equation)
        total += sum(times * _traffic(part) for times, part in inner) if inner else _moved(equation)
        if not inner and equation.primitive.name in _BROADCAST:
            total += _broadcast(equation, operands, seen)
    return total


def _identity(value, same: dict):
    """Returns what identifies an operand: the first variable that holds the same result, or the number itself."""
    return (repr(value.val), str(value.aval)) if isinstance(value, core.Literal) else same.get(value, value)


def _moved(equation) -> int:
    """Returns the bytes of the operands and results of one operation."""
    name, parameters = equation.primitive.name, equation.params
    written = sum(map(_bytes, equation.outvars))
    if name in ("transpose", "stop_gradient"):  # another view of the same memory
        return 0
    if name in ("slice", "dynamic_slice"):  # reads only what it keeps
        return 2 * written
    if name == "gather":  # read, written, checked against the bounds and filled outside
        return int(6.5 * written)
    if name == "stack":  # of arrays that get a new axis first
        return 4 * written
    if name == "logistic":  # 1 / (1 + exp(-x)): five operations and a map of ones
        return 11 * written
    if name == "square":
        return 3 * written
    if name == "integer_pow":
        power = abs(parameters["y"])
        return 3 * written * (power.bit_length() + power.bit_count() - 2 + (parameters["y"] < 0))
    return written + sum(map(_bytes, equation.invars))


def _broadcast(equation, operands: tuple, seen: dict) -> int:
    """Returns the extra bytes of operands smaller than the result: each is broadcast once, then read in full."""
    shape, extra = equation.outvars[0].aval.shape, 0
    for value, identity in zip(equation.invars, operands, strict=True):
        if value.aval.shape == shape:
            continue
        full = math.prod(shape) * value.aval.dtype.itemsize
        extra += full - _bytes(value)
        if ("broadcast", identity, shape) not in seen:
            extra += full + _bytes(value)
            seen["broadcast", identity, shape] = None
    return extra


def _bytes(value) -> int:
    size = getattr(getattr(value.aval, "dtype", None), "itemsize", 0)  # random keys have none
    return math.prod(value.aval.shape) * size


def programs_inside(equation) -> list[tuple[int, core.Jaxpr]]:
    """Returns the programs inside an operation, and how often each of them runs."""
    if equation.primitive.name == "cond":  # the last branch is the default for platforms without a branch
        return [(1, equation.params["branches"][-1].jaxpr)]
    if equation.primitive.name == "jaxseg_convolution":
        shapes = [jax.ShapeDtypeStruct(value.aval.shape, value.aval.dtype) for value in equation.invars]
        return [(1, jax.make_jaxpr(equation.params["fusion"].by_xla)(*shapes).jaxpr)]
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
    """Counts, along each axis, the pairs of kernel and input positions that meet; padding and dilation do not count."""
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


def _meeting(size: int, kernel: int, out: int, stride: int, before: int, input_step: int, kernel_step: int) -> int:
    count = 0
    for tap in range(kernel):
        offset = tap * kernel_step - before  # position in the dilated input of output 0
        for index in range(out):
            at = index * stride + offset
            count += 0 <= at <= (size - 1) * input_step and at % input_step == 0
    return count
