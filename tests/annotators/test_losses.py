"""The losses for noisy annotators and their gradients compared with the original's; schedules; edge cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.annotators.losses import (
    confusion_vae_loss,
    cross_entropy,
    gaussian_kl,
    gaussian_log_prob,
    kl_schedule,
    kl_to_standard_normal,
    named_annotators_loss,
    negative_elbo,
    noisy_logits,
    normalised_matrices,
    sum_of_norms,
)

GOLDENS = ["scm_loss/lidc_two_class", "scm_loss/lidc_three_class", "scm_loss/mnist_two_class"]
KINDS = {"anneal": "anneal", "cyc": "cyclic"}


def matrices_of(cm: jax.Array, pred: jax.Array) -> jax.Array:
    """Returns arrays with channels last: (B, K K H W) -> (B, H, W, K, K); `pred` is (B, K, H, W)."""
    batch, classes, height, width = pred.shape
    return cm.reshape(batch, classes, classes, height, width).transpose(0, 3, 4, 1, 2)


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1, 2, 3), has_aux=True)
def total(pred, cm, mean, log_variance, labels, kl_weight):
    logits = pred.transpose(0, 2, 3, 1)
    return confusion_vae_loss(logits, matrices_of(cm, pred), mean, log_variance, labels, kl_weight=kl_weight)


@pytest.mark.slow
@pytest.mark.parametrize("golden", GOLDENS)
def test_loss_parts_and_gradients_equal_the_original_at_every_point(kit, golden):
    given = [jnp.asarray(kit.input(golden, key)) for key in ("pred", "cm", "mu", "logvar")]
    labels = kit.input(golden, "labels")[:, 0]
    rows = {key: [] for key in ("total", "kld", "loss", "cross_entropies", "grad_mu", "grad_logvar")}
    gradients = []
    for mode, epoch, epochs, ramp_up, beta, index in kit.golden(golden)[0]["params"]["points"]:
        weight = float(kl_schedule(KINDS[mode], epochs, ramp_up=ramp_up)[epoch]) * beta
        (value, parts), found = total(*given, labels[..., index], weight)
        rows["total"].append(value)
        rows["kld"].append(parts["kl"])
        rows["loss"].append(value - parts["kl"])
        rows["cross_entropies"].append([parts[name] for name in ("reconstruction", "segmentation", "pseudo_label")])
        rows["grad_mu"].append(found[2])
        rows["grad_logvar"].append(found[3])
        gradients.append(found)
    for key, row in rows.items():
        kit.check(golden, key, np.array(row))
    for key, found in (("", gradients[0]), ("_last", gradients[-1])):
        kit.check(golden, f"grad_pred{key}", found[0])
        kit.check(golden, f"grad_cm{key}", found[1])


def test_every_golden_of_the_loss_is_compared(kit):
    assert sorted(kit.names("scm_loss/")) == sorted([*GOLDENS, "scm_loss/cyclic_schedule"])


def test_cyclic_schedules_equal_the_original_at_every_length(kit):
    golden = "scm_loss/cyclic_schedule"
    lengths = kit.golden(golden)[0]["params"]["n_iter"]
    assert len(lengths) == 13
    for length in lengths:
        kit.check(golden, f"n{length}", kl_schedule("cyclic", length))


def test_annealing_rises_to_one_in_its_share_of_the_epochs_and_a_share_of_0_gives_ones():
    np.testing.assert_allclose(kl_schedule("anneal", 10, ramp_up=0.45), [0, 0.25, 0.5, 0.75, *[1] * 6])
    for length, share in ((1, 0.3), (3, 0.3), (5, 0.0)):
        np.testing.assert_array_equal(kl_schedule("anneal", length, ramp_up=share), np.ones(length))
    np.testing.assert_array_equal(kl_schedule("constant", 4), np.ones(4))


@pytest.mark.parametrize(
    ("kind", "length", "share", "words"),
    [("cyc", 5, 0.3, "anneal, cyclic, constant"), ("anneal", 0, 0.3, "got 0 and 0.3"), ("anneal", 5, 1.5, "1.5")],
)
def test_impossible_schedules_are_refused(kind, length, share, words):
    with pytest.raises(ValueError, match=words):
        kl_schedule(kind, length, ramp_up=share)


@pytest.mark.slow
def test_the_kl_term_can_be_counted_once():
    arguments = [jnp.ones(shape) for shape in ((2, 3, 3, 2), (2, 3, 3, 2, 2), (2, 4), (2, 4), (2, 3, 3))]
    twice, parts = confusion_vae_loss(*arguments, kl_weight=2.0)
    once, _ = confusion_vae_loss(*arguments, kl_weight=2.0, kl_twice=False)
    np.testing.assert_allclose(twice - once, parts["kl"], rtol=1e-6)
    np.testing.assert_allclose(once, sum(parts.values()), rtol=1e-6)
    np.testing.assert_allclose(parts["kl"], 2 * kl_to_standard_normal(*arguments[2:4]), rtol=1e-6)


@pytest.mark.parametrize("how", ["softmax", "sum"])
def test_columns_of_normalised_matrices_sum_to_one_and_stay_finite(how):
    matrices = jnp.asarray(np.random.default_rng(0).random((4, 5, 3, 3)), jnp.float32)
    np.testing.assert_allclose(normalised_matrices(matrices, how).sum(-2), 1, atol=1e-6)
    assert np.isfinite(normalised_matrices(jnp.zeros((2, 2)), how)).all()
    if how == "sum":
        np.testing.assert_allclose(normalised_matrices(matrices, how), matrices / matrices.sum(-2, keepdims=True))


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="unknown normalisation 'row'; known: softmax, sum"):
        normalised_matrices(jnp.ones((2, 2)), "row")


def test_noisy_logits_are_matrix_times_vector_at_every_pixel():
    random = np.random.default_rng(1)
    logits, matrices = (jnp.asarray(random.random(shape), jnp.float32) for shape in ((2, 3, 4), (2, 3, 4, 4)))
    np.testing.assert_allclose(noisy_logits(logits, matrices), np.einsum("bpij,bpj->bpi", matrices, logits), rtol=1e-5)
    exchanged = jnp.broadcast_to(jnp.eye(4)[::-1], matrices.shape)
    np.testing.assert_array_equal(noisy_logits(logits, exchanged), logits[..., ::-1])


def test_labels_of_another_shape_than_the_logits_are_refused():
    with pytest.raises(ValueError, match=r"got \(2, 3, 3, 2\) and \(2, 3, 3, 1\)"):
        cross_entropy(jnp.ones((2, 3, 3, 2)), jnp.ones((2, 3, 3, 1)))


@pytest.mark.slow
def test_the_kl_divergence_is_the_mean_of_sampled_estimates_and_zero_for_equal_gaussians():
    one, other = ((jnp.asarray([[0.3, -1.0]]), jnp.asarray([[0.1, -0.4]])), (jnp.zeros((1, 2)), jnp.zeros((1, 2))))
    noise = jax.random.normal(jax.random.key(0), (100_000, 2))
    z = one[0] + noise * jnp.exp(one[1])
    sampled = gaussian_log_prob(z, *one) - gaussian_log_prob(z, *other)
    np.testing.assert_allclose(gaussian_kl(*one, *other)[0], sampled.mean(), rtol=0.02)
    np.testing.assert_allclose(gaussian_kl(*one, *other)[0], kl_to_standard_normal(one[0], 2 * one[1]), rtol=1e-6)
    np.testing.assert_allclose(gaussian_kl(*one, *one), 0, atol=1e-7)


def test_the_bound_weights_the_kl_divergence_by_beta():
    logits, target = jnp.zeros((2, 3, 3, 1)), jnp.ones((2, 3, 3, 1), jnp.int32)
    posterior, prior = (jnp.ones((2, 4)), jnp.zeros((2, 4))), (jnp.zeros((2, 4)), jnp.zeros((2, 4)))
    loss, parts = negative_elbo(logits, target, posterior, prior, beta=3.0)
    np.testing.assert_allclose([parts["reconstruction"], parts["kl"], loss], [np.log(2), 6, np.log(2) + 6], rtol=1e-6)


@pytest.mark.slow
def test_norms_are_summed_without_squares_and_an_array_of_zeros_has_zero_gradient():
    arrays = [jnp.asarray([[3.0, 4.0]]), jnp.asarray([-2.0]), jnp.zeros(3)]
    np.testing.assert_allclose(sum_of_norms(arrays), 7.0)
    for found, wanted in zip(jax.grad(sum_of_norms)(arrays), ([[0.6, 0.8]], [-1], [0, 0, 0]), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert float(sum_of_norms([])) == 0


@pytest.mark.parametrize("softmax_twice", [True, False])
def test_the_loss_of_named_annotators_by_its_definition(softmax_twice):
    rng = np.random.default_rng(0)
    logits, matrices = rng.normal(size=(2, 3, 4, 3)), rng.random((2, 3, 4, 2, 3, 3)) + 0.1
    labels = rng.integers(0, 3, (2, 3, 4, 2))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    fit = trace = 0.0
    for a in range(2):
        normal = matrices[:, :, :, a] / matrices[:, :, :, a].sum(-2, keepdims=True)
        noisy = np.einsum("bhwij,bhwj->bhwi", normal, probabilities)
        noisy = np.exp(noisy) / np.exp(noisy).sum(-1, keepdims=True) if softmax_twice else noisy
        fit -= np.log(np.take_along_axis(noisy, labels[..., a, None], -1)).mean()
        trace += np.trace(normal, axis1=-2, axis2=-1).mean()
    given = [jnp.asarray(array, jnp.float32) for array in (logits, matrices)]
    value, parts = named_annotators_loss(*given, labels, trace_weight=0.3, softmax_twice=softmax_twice)
    assert parts["reconstruction"] == pytest.approx(fit, rel=1e-5)
    assert parts["trace"] == pytest.approx(0.3 * trace, rel=1e-5)
    assert value == pytest.approx(fit + 0.3 * trace, rel=1e-5)
