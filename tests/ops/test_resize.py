"""Resizing against PyTorch's goldens."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops.indices import nearest_indices
from jaxseg.ops.resize import bilinear

GOLDEN = "ops/torch_operators"


@pytest.mark.parametrize("size", [(9, 16), (3, 4), (10, 14)])
def test_bilinear_equals_pytorch_up_and_down(kit, size):
    x = jnp.asarray(kit.input(GOLDEN, "x").transpose(0, 2, 3, 1))
    out = np.asarray(bilinear(x, size)).transpose(0, 3, 1, 2)
    kit.check(GOLDEN, f"bilinear_5x7_to_{size[0]}x{size[1]}", out)


def test_nearest_equals_pytorch(kit):
    x = kit.input(GOLDEN, "x")
    rows, columns = nearest_indices(5, 8), nearest_indices(7, 3)
    kit.check(GOLDEN, "nearest_5x7_to_8x3", x[:, :, rows][:, :, :, columns])


def test_nearest_indices_follow_pytorchs_floor_rule_at_every_size_of_the_kit(kit):
    _, arrays = kit.golden("ops/nearest_index_maps")
    maps = {key: value for key, value in arrays.items() if "_to_" in key and "#" not in key}
    assert len(maps) > 15
    for key, wanted in maps.items():
        size_in, size_out = map(int, key.split("_to_"))
        np.testing.assert_array_equal(nearest_indices(size_in, size_out), wanted, err_msg=key)


def test_resizing_to_the_same_size_changes_nothing():
    x = jnp.arange(24.0).reshape(1, 3, 4, 2)
    np.testing.assert_array_equal(bilinear(x, (3, 4)), x)


def test_bilinear_keeps_bfloat16():
    assert bilinear(jnp.ones((1, 2, 2, 1), jnp.bfloat16), (5, 5)).dtype == jnp.bfloat16


def test_sizes_of_nothing_are_refused():
    with pytest.raises(ValueError, match="sizes must be at least 1, got 5 -> 0"):
        nearest_indices(5, 0)
