"""Losses of SegAE compared with the original's values and gradients; partners compared with scipy's assignment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from jaxseg.segae.losses import cosine_similarity, optimal_pairs, ranking_loss, weighted_mse

RANKING = ["ranking_2", "ranking_5", "ranking_8", "ranking_16", "ranking_repeats", "ranking_same"]
TIES = ("ranking_repeats", "ranking_same")  # the original's choice depends on its rounding


def labels(kit, name: str) -> np.ndarray:
    entry, arrays = kit.golden(name)
    stored = entry["inputs"]["labels"]["kind"] == "stored"
    return (arrays["in:labels"] if stored else kit.input(name, "labels")).reshape(-1)


def batch(kit, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns embeddings, true and predicted Dice of a golden."""
    params = kit.golden(name)[0]["params"]
    embeddings = kit.input(name, "embedding")
    if "offset" in kit.golden(name)[0]["inputs"]:
        embeddings = embeddings + kit.input(name, "offset")
    embeddings = embeddings[params.get("rows", slice(None))]
    target = kit.input(name, "target").reshape(-1)
    prediction = 1 - target if params.get("pred") == "1 - target" else kit.input(name, "pred").reshape(-1)
    return embeddings, target, prediction


def total(similarity: np.ndarray, partner: np.ndarray) -> float:
    return float(similarity[np.arange(len(partner)), partner].sum(dtype=np.float64))


@pytest.mark.parametrize("case", ["weighted_mse", "weighted_mse_edges"])
def test_weighted_mse_and_its_gradient_equal_the_original(kit, case):
    name = f"segae_loss/{case}"
    target, prediction = labels(kit, name), kit.input(name, "pred").reshape(-1)
    loss, gradient = jax.jit(jax.value_and_grad(weighted_mse))(prediction, target)
    kit.check(name, "loss", loss)
    kit.check(name, "grad_pred", gradient[:, None])


def test_every_golden_of_the_losses_is_compared(kit):
    assert sorted(kit.names("segae_loss")) == sorted(
        f"segae_loss/{case}" for case in [*RANKING, "weighted_mse", "weighted_mse_edges"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.3, 0.5, 0.7, 0.9])
def test_a_limit_belongs_to_the_interval_below_it(target):
    at = np.float32(target)
    above = np.nextafter(at, np.float32(1))
    weights = [float(weighted_mse(jnp.asarray([x + 1], jnp.float32), jnp.asarray([x]))) for x in (at, above)]
    before, after = {0.3: (7, 5), 0.5: (5, 3), 0.7: (3, 2), 0.9: (2, 1)}[target]
    np.testing.assert_allclose(weights, [before, after], rtol=1e-5)


@pytest.mark.parametrize("case", RANKING)
def test_similarities_equal_the_original(kit, case):
    name = f"segae_loss/{case}"
    kit.check(name, "similarity", jax.jit(cosine_similarity)(jnp.asarray(batch(kit, name)[0])))


@pytest.mark.slow
@pytest.mark.parametrize("case", RANKING)
def test_partners_have_the_originals_total_and_are_equal_if_there_are_no_ties(kit, case):
    name = f"segae_loss/{case}"
    arrays = kit.golden(name)[1]
    similarity = arrays["similarity"].reshape(kit.golden(name)[0]["arrays"]["similarity"]["shape"])
    partner = np.asarray(jax.jit(optimal_pairs)(jnp.asarray(similarity)))
    theirs = arrays["pairs"].reshape(-1, 2)
    theirs = theirs[np.argsort(theirs[:, 0])][:, 1]
    assert total(similarity, partner) == pytest.approx(total(similarity, theirs), abs=2e-6)
    if case not in TIES:
        ours = np.sort(np.stack([np.arange(len(partner)), partner], 1), axis=1)
        ours = ours[np.lexsort(ours.T[::-1])]
        expected = arrays["pairs_unordered"].reshape(-1, 2)
        np.testing.assert_array_equal(ours, expected[np.lexsort(expected.T[::-1])])


@pytest.mark.slow
@pytest.mark.parametrize("case", RANKING)
def test_ranking_loss_and_its_gradient_equal_the_original(kit, case):
    name = f"segae_loss/{case}"
    embeddings, target, prediction = map(jnp.asarray, batch(kit, name))
    if case in TIES:  # with the original's partners, since other partners could be equally good
        pairs = kit.golden(name)[1]["pairs"].reshape(-1, 2)
        partner = jnp.asarray(pairs[np.argsort(pairs[:, 0])][:, 1].astype(np.int32))
    else:
        partner = jax.jit(lambda e: optimal_pairs(cosine_similarity(e)))(embeddings)
    loss, gradient = jax.jit(jax.value_and_grad(ranking_loss))(prediction, target, partner)
    kit.check(name, "loss", loss[None])
    kit.check(name, "grad_pred", gradient[:, None])


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(count=st.sampled_from([2, 3, 7, 12]), classes=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_partners_are_as_good_as_scipys_and_no_mask_is_its_own_partner(count, classes, seed):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(classes, 16)).astype(np.float32)[rng.integers(0, classes, count)]
    similarity = np.asarray(cosine_similarity(jnp.asarray(embeddings)))
    partner = np.asarray(jax.jit(optimal_pairs)(jnp.asarray(similarity)))
    assert sorted(partner) == list(range(count))
    assert (partner != np.arange(count)).all()
    best = linear_sum_assignment(np.where(np.eye(count, dtype=bool), 1e6, -similarity.astype(np.float64)))[1]
    assert total(similarity, partner) == pytest.approx(total(similarity, best), abs=1e-5 * count)


@pytest.mark.slow
@pytest.mark.parametrize("similarity", [-1.0, 0.0, 1.0])
def test_no_mask_is_its_own_partner_for_any_similarity(similarity):
    partner = np.asarray(optimal_pairs(jnp.full((3, 3), similarity)))
    assert sorted(partner) == [0, 1, 2]
    assert (partner != np.arange(3)).all()


@pytest.mark.slow
def test_the_loss_works_under_jit_and_vmap_without_a_gradient_of_the_embeddings():
    rng = np.random.default_rng(0)
    embeddings = jnp.asarray(rng.normal(size=(2, 6, 8)), jnp.float32)
    target, prediction = (jnp.asarray(rng.random((2, 6)), jnp.float32) for _ in range(2))

    def loss(prediction, embeddings, target):
        partner = optimal_pairs(cosine_similarity(embeddings))
        return weighted_mse(prediction, target) + ranking_loss(prediction, target, partner)

    gradients = jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(prediction, embeddings, target)
    single = [jax.grad(loss)(*arrays) for arrays in zip(prediction, embeddings, target, strict=True)]
    np.testing.assert_allclose(gradients[0], np.stack(single), atol=1e-6)
    assert not np.asarray(gradients[1]).any()


def test_embeddings_of_zeros_have_no_similarity():
    found = cosine_similarity(jnp.asarray([[0.0, 0.0], [3.0, 4.0]]))
    np.testing.assert_allclose(found, [[0, 0], [0, 1]], atol=1e-6)


def test_ordered_pairs_have_no_loss_and_equal_predictions_that_of_the_margin():
    partner = jnp.asarray([1, 0])
    target = jnp.asarray([0.2, 0.8])
    assert float(ranking_loss(jnp.asarray([0.1, 0.9]), target, partner)) == 0
    assert float(ranking_loss(jnp.asarray([0.5, 0.5]), target, partner)) == pytest.approx(1e-4)
    assert float(ranking_loss(jnp.asarray([0.9, 0.1]), target, partner)) == pytest.approx(0.48 + 1e-4)


def test_a_batch_of_one_is_refused_when_traced():
    with pytest.raises(ValueError, match="a batch of 1 has no pairs to rank: use a batch size of 2"):
        jax.jit(lambda e: optimal_pairs(cosine_similarity(e))).trace(jnp.ones((1, 4)))


@pytest.mark.slow
def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must be \(B, B\), got \(2, 3\)"):
        optimal_pairs(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"both be \(B,\), got \(2, 1\) and \(2, 1\)"):
        weighted_mse(jnp.ones((2, 1)), jnp.ones((2, 1)))
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        ranking_loss(jnp.ones(2), jnp.ones(3), jnp.asarray([1, 0]))
