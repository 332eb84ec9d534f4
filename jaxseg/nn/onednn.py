"""oneDNN's convolutions, which stock jaxlib for x86-64 Linux contains; arrays are (B, H, W, C).

XLA's runtime computes the custom call `__onednn$convolution` with bias, residual and ReLU in the same pass. JAX has no
function for it and promises nothing about it: `jaxseg.cpu.onednn` says whether it is used.

oneDNN: https://github.com/uxlfoundation/oneDNN
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import cpu
from jaxseg.nn.fused import Fusion


def convolve(fusion: Fusion, x: jax.Array, kernel: jax.Array, *more: jax.Array) -> jax.Array:
    """Returns what `fusion.by_xla` returns, computed by oneDNN.

    Only for CPUs, and only where `jaxseg.cpu.convolutions` allows it.
    """
    out = jax.ShapeDtypeStruct(fusion.result_shape(x.shape, kernel.shape), x.dtype)
    call = jax.ffi.ffi_call(
        "__onednn$convolution", out, custom_call_api_version=2, legacy_backend_config=_description(fusion)
    )
    return call(x, kernel, *more)


@functools.cache
def _description(fusion: Fusion) -> str:
    """Returns XLA's `OneDnnConvolutionConfig` as JSON."""
    image = {"dims": "4", "data": {"batch_dim": "0", "feature_dim": "3", "spatial_dims": ["1", "2"]}}
    places = {"input_feature_dim": "2", "output_feature_dim": "3", "spatial_dims": ["0", "1"]}
    window = {
        "pad_left": [str(before) for before, _ in fusion.padding],
        "pad_right": [str(after) for _, after in fusion.padding],
        "strides": [str(stride) for stride in fusion.strides],
        "window_dilations": ["1", "1"],
    }
    found = {"dims": "4", "feature_groups": "1", "input": image, "output": image, "window": window}
    found["kernel"] = {"dims": "4", "filter": places}
    wanted = {"BIAS": fusion.bias, "BINARY_ADD": fusion.residual, "RELU": fusion.relu}
    operations = [name for name, used in wanted.items() if used]
    if operations:
        found["fusions"] = {"ops": operations}
    return json.dumps({"onednn_conv_config": found})


KINDS = [  # dtype, side of the kernel, stride, and whether bias, residual and ReLU follow
    (dtype, side, stride, follows)
    for dtype in (("float32", "bfloat16") if cpu.computes_bfloat16() else ("float32",))
    for side in (1, 3)
    for stride in (1, 2)
    for follows in ((False, False, False), (True, False, True), (True, True, True))
]


def trial() -> int:
    """Compares small convolutions of every kind. Returns 0 if all are right, else 1.

    `python -m jaxseg.nn.onednn` runs it as another process, because a jaxlib that does not understand the call
    ends the process.
    """
    rng = np.random.default_rng(0)
    for dtype, side, stride, (bias, residual, relu) in KINDS:
        padding = ((side // 2,) * 2,) * 2
        fusion = Fusion((stride, stride), padding, jax.lax.Precision.HIGHEST, bias, residual, relu)
        shapes = [(2, 12, 10, 24), (side, side, 24, 32)]
        shapes += [(32,)] * bias + [fusion.result_shape(*shapes)] * residual
        given = [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
        found = jax.jit(convolve, static_argnums=0)(fusion, *given).astype(jnp.float32)
        wanted = fusion.by_xla(*(array.astype(jnp.float32) for array in given))
        if not np.allclose(found, wanted, rtol=0, atol=(1e-5 if dtype == "float32" else 1e-2) * np.abs(wanted).max()):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(trial())
