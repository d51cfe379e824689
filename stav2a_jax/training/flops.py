"""Operations of a traced program: matrix products and convolutions, as MFU is usually counted (PaLM, appendix B)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import AbstractDevice, AbstractMesh

from stav2a_jax import parallel


def matmul_flops(jaxpr: Any) -> float:
    """Two operations for every product that is summed, loops as often as they run, over all devices together.

    Of a branch the dearer side counts, of a loop without a fixed length one turn. Zeros that a strided convolution's
    gradient puts between its inputs do not count, those at the border do.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        inside = [matmul_flops(sub) for sub in _inner(equation)]
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 2.0 * _size(equation.outvars[0]) * math.prod(lengths)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "scan":
            total += params["length"] * sum(inside)
        elif name == "cond":
            total += max(inside)
        elif name == "shard_map":
            total += params["mesh"].size * sum(inside)
        else:
            total += sum(inside)
    return total


def flops_of(function: Callable[..., Any], *args: Any) -> float:
    """:func:`matmul_flops` of a call, of which only the shapes of its arguments are looked at."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    return matmul_flops(jax.make_jaxpr(function)(*shapes).jaxpr)


def step_flops(function: Callable[..., Any], *args: Any) -> float:
    """:func:`flops_of` in the form for TPUs, whatever the target: it has neither library calls that hide their
    products, nor shapes that save some. The call must name no mesh."""
    device = AbstractDevice(device_kind="TPU", num_cores=None, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), parallel.AXES[:1], abstract_device=device)):
        return flops_of(function, *args)


def _convolution(equation: Any) -> float:
    params, kernel = equation.params, equation.invars[1].aval.shape
    of_output, *_ = params["dimension_numbers"].rhs_spec
    products = math.prod(kernel) / kernel[of_output]  # per output: the kernel's positions times a group's inputs
    return 2.0 * _size(equation.outvars[0]) * products / math.prod(params["lhs_dilation"])


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def _inner(equation: Any) -> Iterator[Any]:
    """Programs inside an equation's parameters."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr"):
                yield item.jaxpr
