"""Counts the operations of a function by hand."""

import math
from collections.abc import Callable

import jax
from jax.extend import core
from jax.interpreters import partial_eval

_ARITHMETIC = {"add", "add_any", "sub", "mul", "div", "max", "min", "neg", "square", "integer_pow", "abs", "sign"}
_ARITHMETIC |= {"gt", "lt", "ge", "le", "eq", "ne", "select_n", "and", "or", "not"}


def counted(function: Callable, *arguments) -> int:
    """Returns the operations of a function: two for each multiply and add of a convolution or product, one for each
    number that arithmetic gives or a sum takes.

    Exponentials and the like are not among them, nor multiplications with padding, as XLA does not count them.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # as XLA, without what nobody needs
    return _count(used)


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "dot_general":
            total += _product(equation)
        elif name == "cond":  # of code for different platforms the last is for all that have none of their own
            total += _count(equation.params["branches"][-1].jaxpr)
        elif name == "scan":
            total += equation.params["length"] * _count(equation.params["jaxpr"].jaxpr)
        elif name in _ARITHMETIC:
            total += equation.outvars[0].aval.size
        elif name in ("reduce_sum", "reduce_max", "reduce_min"):
            total += equation.invars[0].aval.size
        else:
            total += sum(_count(inner) for inner in _inner(equation))
    return total


def _inner(equation) -> list[core.Jaxpr]:
    found = []
    for value in equation.params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
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
