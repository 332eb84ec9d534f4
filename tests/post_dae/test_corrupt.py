"""Post-DAE's corruptions: the original's results for recorded random numbers, and properties for any random numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.post_dae import corrupt as ops
from jaxseg.post_dae.corrupt import Corruption, Discs, Swaps, corrupt

KEY = jax.random.key(3)
NOTHING = {"swaps": 0, "max_patches": 0, "max_discs": 0}


def golden(kit, case: str) -> tuple[jax.Array, dict, dict]:
    """Returns the mask, the parameters and the arrays of a golden."""
    name = f"dae_augment/{case}"
    entry, arrays = kit.golden(name)
    return jnp.asarray(kit.input(name, "mask")[0, 0]), entry["params"], arrays


def ellipse(height: int = 96, width: int = 112) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (((rows - height / 2) / (height / 3)) ** 2 + ((columns - width / 2) / (width / 4)) ** 2 < 1).astype(
        np.float32
    )


def keys(count: int) -> jax.Array:
    return jax.random.split(KEY, count)


def test_border_equals_the_originals_edges(kit):
    mask, params, arrays = golden(kit, "swaps")
    edges = np.asarray(ops.border(mask))
    np.testing.assert_array_equal(edges, arrays["canny"] > 0)
    assert edges.sum() == params["n_edges"]


def test_the_edge_of_the_image_is_not_a_border():
    mask = np.zeros((16, 16), np.float32)
    mask[:8] = 1
    rows, columns = np.nonzero(np.asarray(ops.border(jnp.asarray(mask))))
    assert set(rows) == {7}
    assert sorted(columns) == list(range(16))
    assert not ops.border(jnp.asarray(mask) * 0.99).any()  # soft values are background


@pytest.mark.parametrize("compiled", [False, True])
def test_swaps_equal_the_original(kit, compiled):
    mask, params, arrays = golden(kit, "swaps")
    rows, columns = np.argwhere(arrays["canny"])[params["edge_indices"]].T
    swaps = Swaps(*(jnp.asarray(x) for x in (rows, columns, np.array(params["distances"]), np.ones(60, bool))))
    function = jax.jit(ops.swap_labels) if compiled else ops.swap_labels
    np.testing.assert_array_equal(function(mask, swaps), arrays["out"])
    assert (np.asarray(function(mask, swaps._replace(used=jnp.zeros(60, bool)))) == mask).all()


@pytest.mark.parametrize("case", ["regions_many", "regions_few"])
def test_deleted_patches_equal_the_original(kit, case):
    mask, params, arrays = golden(kit, case)
    size = params["patch_size"][0]
    occupied = np.asarray(ops.occupied_patches(mask, size=size))
    assert np.argwhere(occupied).tolist() == params["possible_patches"]
    chosen = np.zeros(occupied.shape, bool)
    chosen[tuple(np.transpose(params["possible_patches"][::3][: params["k"]]))] = True
    np.testing.assert_array_equal(ops.delete_patches(mask, jnp.asarray(chosen), size=size), arrays["out"])


def test_discs_equal_the_original(kit):
    mask, params, arrays = golden(kit, "circles")
    count, *centres = params["randint_results"]
    rows, columns = (jnp.asarray([*centres[first::2], 40]) for first in (0, 1))
    discs = Discs(rows, columns, jnp.arange(count + 1) < count)
    np.testing.assert_array_equal(ops.add_discs(mask, discs, radius=params["circle_radius"]), arrays["out"])


@pytest.mark.slow
@pytest.mark.parametrize("centre", [(0, 0), (20, 30), (3, 30), (19, 1), (10, 15)])
@pytest.mark.parametrize("radius", [0, 2, 2.5, 8])
def test_discs_at_and_beyond_the_image_s_border_are_cut_there(centre, radius):
    discs = Discs(*(jnp.array([place]) for place in (*centre, True)))
    rows, columns = np.mgrid[:20, :30]
    wanted = np.hypot(rows - centre[0], columns - centre[1]) <= radius
    np.testing.assert_array_equal(ops.add_discs(jnp.zeros((20, 30)), discs, radius=radius), wanted)


@pytest.mark.full
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["original", "better"]))
def test_swaps_are_applied_one_after_the_other(seed, fidelity):
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 4)).astype(np.float32)
    rows, columns, distances = (rng.integers(low, high, 40) for low, high in ((0, 9), (0, 4), (1, 7)))
    used = rng.random(40) > 0.2
    wanted = mask.copy()
    for row, column, distance in zip(rows[used], columns[used], distances[used], strict=True):
        above, below = max(row - distance, 0), min(row + distance, 8)
        old = wanted[below, column]
        wanted[below, column] = wanted[above, column]
        wanted[above, column] = 1 - wanted[above, column] if fidelity == "original" else old
    swaps = Swaps(*(jnp.asarray(x) for x in (rows, columns, distances, used)))
    found = ops.swap_labels(jnp.asarray(mask), swaps, fidelity=fidelity)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_swaps_in_an_image_of_one_row():
    mask = jnp.array([[1.0, 0.0]])
    swaps = Swaps(*(jnp.array([x]) for x in (0, 0, 3, True)))
    np.testing.assert_array_equal(ops.swap_labels(mask, swaps), [[0.0, 0.0]])
    np.testing.assert_array_equal(ops.swap_labels(mask, swaps, fidelity="better"), mask)


@pytest.mark.full
def test_sampled_swaps_are_distinct_border_pixels():
    mask = jnp.asarray(ellipse())
    edges = np.asarray(ops.border(mask))
    total = int(edges.sum())
    seen = set()
    for count in (20, total, total + 30):
        draw = functools.partial(ops.draw_swaps, mask=mask, count=count, max_distance=4)
        swaps = jax.jit(jax.vmap(draw))(keys(20))
        assert swaps.used.shape == (20, count)
        assert (swaps.used.sum(1) == min(count, total)).all()
        for rows, columns, used in zip(swaps.rows, swaps.columns, swaps.used, strict=True):
            pixels = set(zip(rows[used].tolist(), columns[used].tolist(), strict=True))
            assert len(pixels) == used.sum()
            assert all(edges[pixel] for pixel in pixels)
            seen |= pixels if count == 20 else set()
        assert set(np.unique(swaps.distances)) == {1, 2, 3, 4}
    assert len(seen) > 0.75 * total  # 400 samples; if all 20 keys gave the same ones, 20


@pytest.mark.slow
def test_the_order_of_sampled_swaps_is_random():
    draw = jax.jit(jax.vmap(lambda key: ops.draw_swaps(key, jnp.asarray(ellipse()), count=40, max_distance=4)))
    rows = np.asarray(draw(keys(50)).rows, float)
    assert abs(np.corrcoef(np.tile(np.arange(40), 50), rows.ravel())[0, 1]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_without_border_gives_no_swaps(value):
    draw = jax.jit(functools.partial(ops.draw_swaps, count=300, max_distance=20))
    swaps = draw(KEY, jnp.full((16, 16), value))
    assert not swaps.used.any()
    assert (ops.swap_labels(jnp.full((16, 16), value), swaps) == value).all()


def test_the_number_of_deleted_patches_is_between_0_and_max_patches():
    mask = jnp.zeros((64, 70)).at[:40, :60].set(1)  # 5 x 8 complete patches of 8 pixels hold foreground
    draw = jax.jit(jax.vmap(lambda key: ops.draw_patches(key, mask, size=8, max_patches=4)))
    chosen = np.asarray(draw(keys(200)))
    assert chosen.shape == (200, 8, 8)
    assert not (chosen & ~np.asarray(ops.occupied_patches(mask, size=8))).any()
    numbers = np.bincount(chosen.sum((1, 2)), minlength=5)
    assert len(numbers) == 5
    assert numbers.min() > 20
    assert (chosen.any(0) == np.asarray(ops.occupied_patches(mask, size=8))).all()


@pytest.mark.slow
def test_if_few_patches_hold_foreground_the_original_deletes_all_and_better_at_most_half():
    mask = jnp.zeros((64, 64)).at[:16, :24].set(1)  # 6 patches
    chosen = [
        jax.jit(jax.vmap(lambda key, f=f: ops.draw_patches(key, mask, size=8, max_patches=15, fidelity=f)))(keys(60))
        for f in ("original", "better")
    ]
    assert (chosen[0].sum((1, 2)) == 6).all()
    assert set(np.asarray(chosen[1].sum((1, 2)))) == {0, 1, 2, 3}
    assert not ops.draw_patches(KEY, jnp.zeros((64, 64)), size=8, max_patches=15).any()


def test_patches_larger_than_the_image_delete_nothing():
    mask = jnp.ones((16, 40))
    chosen = ops.draw_patches(KEY, mask, size=32, max_patches=3)
    assert chosen.shape == (0, 1)
    assert (ops.delete_patches(mask, chosen, size=32) == 1).all()


@pytest.mark.parametrize(("fidelity", "farthest"), [("original", (6, 9)), ("better", (5, 8))])
def test_between_0_and_max_discs_lie_in_the_image_or_one_pixel_outside(fidelity, farthest):
    draw = jax.jit(jax.vmap(lambda key: ops.draw_discs(key, (6, 9), max_discs=5, fidelity=fidelity)))
    discs = draw(keys(200))
    assert set(np.asarray(discs.used.sum(1))) == set(range(6))
    assert (int(discs.rows.max()), int(discs.columns.max())) == farthest
    assert (int(discs.rows.min()), int(discs.columns.min())) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_every_mask_of_a_batch_gets_its_own_random_corruption(dtype):
    masks = jnp.asarray(np.stack([ellipse(64, 64)] * 3)).astype(dtype)
    how = Corruption(swaps=30, max_distance=5, patch=8, max_discs=3, radius=2)
    found = np.asarray(corrupt(KEY, masks, how))
    assert (found.shape, found.dtype) == (masks.shape, np.float32)
    assert set(np.unique(found)) == {0, 1}
    assert (found[0] != found[1]).any()
    assert (found[1] != found[2]).any()
    assert (found[0] != ellipse(64, 64)).any()
    np.testing.assert_array_equal(found, corrupt(KEY, masks, how))
    assert (found != np.asarray(corrupt(jax.random.key(4), masks, how))).any()


@pytest.mark.slow
def test_channels_are_corrupted_separately():
    masks = jnp.asarray(np.stack([ellipse(64, 64), 1 - ellipse(64, 64)], -1))[None]
    how = Corruption(max_discs=0, max_patches=0, swaps=9, max_distance=3)
    found = np.asarray(corrupt(KEY, masks, how))
    assert found.shape == (1, 64, 64, 2)
    changed = found != np.asarray(masks)
    assert changed[..., 0].any()
    assert changed[..., 1].any()
    assert changed.sum((0, 1, 2)).max() <= 18
    assert (corrupt(KEY, masks, Corruption(**NOTHING)) == masks).all()


@pytest.mark.slow
def test_corruptions_are_applied_in_the_originals_order():
    """Discs come last, so they are complete; a patch deleted before holds only discs."""
    mask = jnp.asarray(ellipse(64, 64))[None]
    how = Corruption(swaps=60, max_distance=4, patch=64, max_patches=1, max_discs=2, radius=3)
    found = np.asarray(jax.vmap(lambda key: corrupt(key, mask, how))(keys(20)))[:, 0]
    only_discs = Corruption(**(NOTHING | {"max_discs": 2}), radius=3)
    discs = np.asarray(jax.vmap(lambda key: corrupt(key, jnp.zeros_like(mask), only_discs))(keys(20)))[:, 0]
    np.testing.assert_array_equal(found, discs)  # the only patch is always deleted


@pytest.mark.slow
def test_soft_values_are_kept_and_stay_in_range():
    mask = jnp.asarray(np.random.default_rng(0).random((2, 40, 40)), jnp.float32).at[:, 10:20, 10:20].set(1)
    found = np.asarray(corrupt(KEY, mask, Corruption(swaps=20, max_distance=3, patch=8, max_patches=2, radius=2)))
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.isin(found, np.asarray(mask)).mean() > 0.9


@pytest.mark.full
def test_scaled_corruptions_are_as_strong_at_another_size():
    how = Corruption().scaled(0.25)
    assert (how.swaps, how.max_distance, how.patch, how.radius) == (75, 5, 8, 2)
    assert (how.max_patches, how.max_discs) == (15, 10)
    small, large = (np.stack([ellipse(side, side)] * 8) for side in (128, 512))
    changed = np.mean(np.asarray(corrupt(KEY, jnp.asarray(small), how)) != small)
    assert changed == pytest.approx(np.mean(np.asarray(corrupt(KEY, jnp.asarray(large))) != large), rel=0.4)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"swaps": -1}, "swaps: "),
        ({"patch": 0}, "patch: "),
        ({"max_distance": 2.5}, "max_distance: 2.5 is not a whole number"),
        ({"radius": float("nan")}, "radius: nan is not a finite number"),
        ({"fidelity": True}, "fidelity: true is not one of original, better"),
    ],
)
def test_impossible_options_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Corruption(**options)


def test_the_older_keyword_as_original_means_fidelity():
    assert Corruption(as_original=True) == Corruption()
    assert Corruption(as_original=False) == Corruption(fidelity="better") != Corruption()
    assert Corruption(as_original=False).scaled(0.5).fidelity == "better"


def test_wrong_shapes_and_factors_are_refused():
    with pytest.raises(ValueError, match=r"masks must be \(B, H, W\) or \(B, H, W, C\), got \(8, 8\)"):
        corrupt(KEY, jnp.zeros((8, 8)))
    with pytest.raises(ValueError, match="factor must be above 0"):
        Corruption().scaled(0)
