"""Tests that the one primitive of all convolutions keeps its meaning under every transformation, with oneDNN too."""

import itertools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg import cpu
from jaxseg.nn import engine, onednn
from jaxseg.nn.convolution import convolution
from jaxseg.nn.fused import Fusion

HIGHEST = jax.lax.Precision.HIGHEST
PADDING = ((1, 1), (1, 1))
CALL = "__onednn$convolution"

pytestmark = pytest.mark.usefixtures("onednn")


def sample(shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def inputs(batch=2, channels=(9, 12), dtype=jnp.float32):
    """Returns an image, a kernel, a bias and a residual."""
    shapes = (batch, 6, 7, channels[0]), (3, 3, *channels), (channels[1],), (batch, 6, 7, channels[1])
    return [sample(shape, seed, dtype) for seed, shape in enumerate(shapes)]


def ours(x, kernel, bias, residual):
    return convolution(x, kernel, (1, 1), PADDING, bias=bias, residual=residual, relu=True, precision=HIGHEST)


FUSION = Fusion((1, 1), PADDING, HIGHEST, bias=True, residual=True, relu=True)


def near(found, wanted, tolerance=1e-5):
    for one, right in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert one.dtype == right.dtype
        one, right = np.asarray(one, np.float32), np.asarray(right, np.float32)
        np.testing.assert_allclose(one, right, atol=tolerance * np.abs(right).max())


def test_programs_for_cpus_call_onednn_and_others_do_not():
    given = inputs()
    assert CALL in jax.jit(ours).lower(*given).as_text()
    for platform in ("cuda", "tpu"):
        assert CALL not in jax.jit(ours).trace(*given).lower(lowering_platforms=(platform,)).as_text()
    for platforms in (["cpu"], ["cpu", "cuda", "tpu"]):
        exported = jax.export.export(jax.jit(ours), platforms=platforms)(*given)
        assert CALL not in exported.mlir_module()
    near(jax.export.deserialize(exported.serialize()).call(*given), FUSION.by_xla(*given))


def test_onednn_can_be_turned_off(monkeypatch):
    monkeypatch.setenv(cpu.VARIABLE, "0")
    cpu.onednn.cache_clear()
    given = inputs()
    assert CALL not in jax.jit(ours).lower(*given).as_text()
    near(ours(*given), FUSION.by_xla(*given))


def test_programs_that_are_stored_do_not_contain_onednn():
    """jaxlib 0.10.2 reads memory of other objects when it stores such a program."""
    assert cpu.convolutions().used
    jax.config.update("jax_enable_compilation_cache", True)  # the fixture resets it
    assert not cpu.convolutions().used
    assert CALL not in jax.jit(ours).lower(*inputs()).as_text()


@pytest.mark.parametrize(
    ("place", "shape", "dtype", "message"),
    [
        (0, (2, 6, 7, 8), jnp.float32, "takes images of 9 channels"),
        (2, (11,), jnp.float32, "the bias must be"),
        (3, (1, 6, 7, 12), jnp.float32, "the residual must be"),
        (1, (3, 3, 9, 12), jnp.bfloat16, "all arrays must be float32"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_before_onednn_gets_them(place, shape, dtype, message):
    given = inputs()
    given[place] = sample(shape, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        ours(*given)


def test_the_choice_of_the_form():
    def form(kernel, image=(1, 64, 64), dtype=jnp.float32, strides=(1, 1)):
        padding = ((kernel[0] // 2,) * 2,) * 2
        x, k = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((*image, kernel[2]), kernel))
        found = engine.form_on_cpus(Fusion(strides, padding), x, k)
        return getattr(found, "func", "XLA")

    assert form((3, 3, 16, 16)) is onednn.convolve
    assert form((1, 1, 16, 16)) is onednn.convolve
    assert form((3, 3, 16, 1)) is engine._by_rows
    assert form((3, 3, 4, 1)) is onednn.convolve
    assert form((3, 3, 1024, 512)) is engine._by_winograd
    assert form((3, 3, 1024, 512), strides=(2, 2)) is onednn.convolve
    assert form((3, 3, 16, 16), dtype=jnp.float16) == "XLA"
    assert form((3, 3, 16, 16), image=(0, 64, 64)) == "XLA"
    wanted = onednn.convolve if cpu.computes_bfloat16() else engine._widened
    assert form((3, 3, 1024, 512), dtype=jnp.bfloat16) is wanted


@pytest.mark.slow
def test_bfloat16_equals_float32_rounded():
    given = inputs(dtype=jnp.bfloat16)
    for found, wanted in (
        (ours(*given), FUSION.by_xla(*(array.astype(jnp.float32) for array in given))),
        (engine._widened(FUSION, *given), FUSION.by_xla(*(array.astype(jnp.float32) for array in given))),
    ):
        assert found.dtype == jnp.bfloat16
        near(found.astype(jnp.float32), wanted, 2**-7)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2**-6)])
@pytest.mark.parametrize("side", [3, 5])
def test_few_output_channels_equal_xlas_form(side, dtype, bound):
    fusion = Fusion(padding=((side // 2,) * 2,) * 2, precision=HIGHEST, bias=True, residual=True, relu=True)
    shapes = (2, 9, 7, 16), (side, side, 16, 2), (2,), (2, 9, 7, 2)
    given = [sample(shape, seed, dtype) for seed, shape in enumerate(shapes)]
    found = jax.jit(engine._by_rows, static_argnums=0)(fusion, *given)
    assert found.dtype == dtype
    near(found.astype(jnp.float32), fusion.by_xla(*(array.astype(jnp.float32) for array in given)), bound)


@pytest.mark.slow
def test_vmap_makes_one_larger_batch_unless_kernels_differ():
    x, kernel, bias, residual = inputs(batch=6)
    images, rest = x.reshape(3, 2, *x.shape[1:]), residual.reshape(3, 2, *residual.shape[1:])
    whole = FUSION.by_xla(x, kernel, bias, residual)
    mapped = jax.jit(jax.vmap(ours, (0, None, None, 0)))
    near(mapped(images, kernel, bias, rest).reshape(whole.shape), whole)
    assert mapped.lower(images, kernel, bias, rest).as_text().count(CALL) == 1
    one = jax.vmap(ours, (1, None, None, None))(images.swapaxes(0, 1), kernel, bias, rest[0])
    near(one[2], FUSION.by_xla(images[2], kernel, bias, rest[0]))
    several = jnp.stack([kernel, -kernel])
    each = jax.vmap(ours, (None, 0, None, None))(images[0], several, bias, rest[0])
    near(each[1], FUSION.by_xla(images[0], -kernel, bias, rest[0]))
    nested = jax.vmap(jax.vmap(lambda x, r: ours(x[None], kernel, bias, r[None])[0]))(images, rest)
    near(nested.reshape(whole.shape), whole)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_with_checkpoint_and_vmap(dtype):
    given = inputs(batch=4, dtype=dtype)
    places = tuple(range(4))
    loss = lambda *given: jnp.square(ours(*given).astype(jnp.float32)).sum()  # noqa: E731
    plain = lambda *given: jnp.square(FUSION.by_xla(*given).astype(jnp.float32)).sum()  # noqa: E731
    gradients = jax.jit(jax.grad(loss, places))
    assert CALL in gradients.lower(*given).as_text()
    wanted = jax.grad(plain, places)(*(array.astype(jnp.float32) for array in given))
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-5
    found = gradients(*given)
    assert [array.dtype for array in found] == [dtype] * 4
    near([array.astype(jnp.float32) for array in found], wanted, tolerance)
    near(jax.jit(jax.grad(jax.checkpoint(loss), places))(*given), found, tolerance)
    x, kernel, bias, residual = given
    each = jax.vmap(lambda x, r: jax.grad(loss, 1)(x[None], kernel, bias, r[None]))(x, residual)
    near(each.astype(jnp.float32).sum(0), wanted[1], tolerance)


@pytest.mark.slow
def test_several_devices_share_a_batch_without_bringing_it_together():
    x, kernel, bias, residual = inputs(batch=8, channels=(16, 16))
    mesh = Mesh(np.array(jax.devices()), "data")
    split, whole = (NamedSharding(mesh, PartitionSpec(*names)) for names in (["data"], []))
    placed = [jax.device_put(x, split), *jax.device_put((kernel, bias), whole), jax.device_put(residual, split)]

    def twice(x, kernel, bias, residual):
        return ours(ours(x, kernel, bias, residual), kernel, bias, residual)

    program = jax.jit(twice, out_shardings=split).lower(*placed).compile()
    text = program.as_text()
    assert CALL in text
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)
    near(program(*placed), twice(x, kernel, bias, residual))

    gradients = jax.jit(jax.grad(lambda *given: jnp.square(twice(*given)).sum(), (0, 1)))
    text = gradients.lower(*placed).compile().as_text()
    assert not re.search(r"all-gather|all-to-all", text)  # the kernel's gradient is summed by an all-reduce
    near(gradients(*placed), gradients(x, kernel, bias, residual))


@pytest.mark.slow
def test_pmap_runs_on_every_device():
    x, kernel, bias, residual = inputs(batch=8)
    split = [array.reshape(8, 1, *array.shape[1:]) for array in (x, residual)]
    found = jax.pmap(lambda x, r: ours(x, kernel, bias, r))(*split)
    near(found.reshape(residual.shape), FUSION.by_xla(x, kernel, bias, residual))


@pytest.mark.slow
def test_symbolic_batches_have_xlas_form():
    x, kernel, bias, residual = inputs()
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((batch, *array.shape[1:]), array.dtype) for array in (x, residual)]
    exported = jax.export.export(jax.jit(lambda x, r: ours(x, kernel, bias, r)))(*shapes)
    near(exported.call(x, residual), FUSION.by_xla(x, kernel, bias, residual))


@pytest.mark.slow
@pytest.mark.parametrize("side", [1, 2, 3, 7])
def test_every_geometry_of_the_networks(side):
    for stride, (before, after), follows in itertools.product((1, 2), ((side // 2, side // 2), (0, 1)), (False, True)):
        fusion = Fusion((stride, stride), ((before, after), (after, before)), HIGHEST, bias=follows, relu=follows)
        given = [sample((2, 9, 8, 5)), sample((side, side, 5, 6), 1), *[sample((6,), 2)] * follows]
        near(jax.jit(engine.fused, static_argnums=0)(fusion, *given), fusion.by_xla(*given))
