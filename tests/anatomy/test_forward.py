"""The numbers that say how sure a network is, ensembles, and the Dice of masks with those of changed copies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import jaxseg
from jaxseg.anatomy import copies as changes
from jaxseg.anatomy.forward import Ensemble, Forward, ForwardWithConfidence, dice_of_copy
from jaxseg.nn.metrics import dice

HEIGHT, WIDTH, CLASSES = 48, 64, 2
CUTOFFS = np.array([0.0, 0.7], np.float32)


class Brightness:
    """A network without weights: the logits of class k are the mean of channel k over 4 x 4 pixels, times a factor."""

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def coarse_logits(self, images):
        batch, height, width, _ = images.shape
        blocks = images.reshape(batch, height // 4, 4, width // 4, 4, 3)
        return self.factor * blocks.mean((2, 4))[..., :CLASSES]


class Sides(Brightness):
    """Its first class has the bright pixels of the left half of an image, its second class those of the right half."""

    def coarse_logits(self, images):
        found = super().coarse_logits(images)[..., :1]
        left = (jnp.arange(found.shape[2]) < found.shape[2] // 2).reshape(1, 1, -1, 1)
        return jnp.concatenate([jnp.where(left, found, -9.0), jnp.where(left, -9.0, found)], -1)


def images(seed: int = 0) -> np.ndarray:
    """Returns two smooth images whose values are about as often above as below 0, (2, h, w, 3)."""
    noise = np.random.default_rng(seed).normal(size=(2, HEIGHT, WIDTH, 3))
    return (8 * ndimage.gaussian_filter(noise, (0, 5, 5, 0))).astype(np.float32)


def run(function, *arguments):
    return jax.tree.map(np.asarray, jax.jit(function)(*arguments))


def sure(model, x, **options):
    return run(lambda x, cutoffs: ForwardWithConfidence(None, True, **options)(model, x, cutoffs), x, CUTOFFS)


def test_masks_and_probabilities_are_those_of_the_usual_program():
    wanted = run(lambda x, cutoffs: Forward(None, True)(Brightness(), x, cutoffs), images(), CUTOFFS)
    bits, scores, _, pooled = sure(Brightness(), images())
    np.testing.assert_array_equal(bits, wanted[0])
    np.testing.assert_allclose(scores, wanted[1], atol=1e-6)
    assert pooled is None


def test_the_numbers_are_those_of_their_definition():
    bits, scores, numbers, _ = sure(Brightness(), images())
    masks = np.unpackbits(bits, axis=3).astype(bool)
    for i, k in np.ndindex(2, CLASSES):
        mask, p = masks[i, k], scores[i, k].astype(np.float64)
        assert 0 < mask.mean() < 1
        near, far = (ndimage.binary_dilation(part, np.ones((5, 5))) for part in (mask, ~mask))
        entropy = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
        np.testing.assert_allclose(numbers[i, k, :2], [p[mask].mean(), entropy[near & far].mean()], rtol=1e-4)
    assert np.isnan(numbers[..., 2]).all()


def test_empty_and_full_masks_have_no_border_and_the_edge_of_the_image_is_none():
    x = np.stack([np.full((HEIGHT, WIDTH, 3), value, np.float32) for value in (-3, 3)])
    empty, full = sure(Brightness(), x)[2]
    assert np.isnan(empty).all()
    np.testing.assert_allclose(full[:, 0], 1 / (1 + np.exp(-3)), rtol=1e-5)
    assert np.isnan(full[:, 1]).all()


def ensemble(*models) -> Ensemble:
    """Returns an Ensemble of networks that are not real models."""
    found = Ensemble.__new__(Ensemble)
    object.__setattr__(found, "members", models)
    return found


def test_several_models_segment_by_their_mean_and_agree_by_the_dice_of_each_pair():
    models = [Brightness(), Brightness(-0.2), Brightness(3.0)]
    each = [sure(model, images()) for model in models]
    bits, scores, numbers, _ = sure(ensemble(*models), images())
    mean = np.mean([one[1] for one in each], axis=0)
    np.testing.assert_allclose(scores, mean, atol=1e-6)
    limit = 1 / (1 + np.exp(-CUTOFFS.reshape(2, 1, 1, 1)))
    clear = np.abs(mean - limit) > 1e-6
    np.testing.assert_array_equal(np.unpackbits(bits, axis=3)[clear], (mean > limit)[clear])
    masks = [np.unpackbits(one[0], axis=3).astype(bool) for one in each]
    pairs = [dice(masks[a], masks[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(numbers[..., 2], np.mean(pairs, axis=0), rtol=1e-5)


def agreement(model, count, monkeypatch, *, names=("left", "right"), **limits) -> np.ndarray:
    """Returns the result for the last of some copies, with other limits of the changes, (2, K)."""
    for name, value in limits.items():
        monkeypatch.setattr(changes, name, value)
    copy = changes.copies(count, (HEIGHT, WIDTH), names, (0, 1), "cxas")[-1]
    bits = sure(model, images())[0]
    return run(lambda *given: dice_of_copy(model, *given), copy, images(), CUTOFFS, bits)


STILL = {"SCALE": 0.0, "SHIFT": 0.0, "GAMMA": 0.0, "CONTRAST": 0.0}


@pytest.mark.parametrize("model", [Brightness(), ensemble(Brightness(), Brightness(2.0))])
def test_an_unchanged_copy_has_the_same_masks(monkeypatch, model):
    np.testing.assert_allclose(agreement(model, 1, monkeypatch, **STILL), 1, atol=2e-3)  # rounding moves few pixels


def test_in_a_mirrored_copy_left_and_right_are_exchanged(monkeypatch):
    np.testing.assert_allclose(agreement(Sides(), 2, monkeypatch, **STILL), 1, atol=2e-3)
    assert agreement(Sides(), 2, monkeypatch, names=("one", "two"), **STILL).max() == 0


def test_a_class_without_partner_is_not_counted_in_a_mirrored_copy(monkeypatch):
    found = agreement(Sides(), 2, monkeypatch, names=("left lung", "heart"), **STILL)
    assert np.isnan(found[:, 0]).all()
    assert not np.isnan(found[:, 1]).any()


@pytest.mark.parametrize("count", range(1, 5))
def test_moved_and_scaled_masks_are_mapped_back_to_the_image(monkeypatch, count):
    limits = {"GAMMA": 0.0, "CONTRAST": 0.0, "SCALE": 0.1, "SHIFT": 0.2}
    names = ("one", "two")  # of no side: the network does not know where it looks
    assert agreement(Brightness(), count, monkeypatch, names=names, **limits).min() > 0.85  # blocks of 4 x 4 move, too
    assert agreement(Fixed(), count, monkeypatch, names=names, **limits).max() < 0.85


class Fixed(Brightness):
    """It finds the same box in every image, so its mask of a moved copy lies elsewhere."""

    def coarse_logits(self, images):
        rows, columns = jnp.arange(HEIGHT // 4), jnp.arange(WIDTH // 4)
        box = ((rows > 3) & (rows < 8))[:, None] & ((columns > 3) & (columns < 10))[None]
        return jnp.broadcast_to(jnp.where(box, 5.0, -5.0)[None, :, :, None], (2, HEIGHT // 4, WIDTH // 4, CLASSES))


def test_other_grey_values_change_the_masks_of_a_network_that_depends_on_them(monkeypatch):
    limits = {"SCALE": 0.0, "SHIFT": 0.0, "GAMMA": 1.5, "CONTRAST": 0.0}
    assert agreement(Brightness(), 1, monkeypatch, **limits).max() < 0.99


@pytest.fixture(scope="module")
def model(plain):
    return jaxseg.create("cxas", class_names=("a", "b"), backbone="resnet18", width=4)


def renamed(model, **changed):
    other = jaxseg.create("cxas", class_names=("a", "b"), backbone="resnet18", width=4, seed=1)
    other.card = dataclasses.replace(other.card, **changed)
    return other


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"class_names": ("a", "c")}, "do not have the same class_names"),
        ({"input_size": (64, 64)}, "do not have the same input_size"),
        ({"preprocessing": "paxray"}, "do not have the same preprocessing"),
    ],
)
def test_models_that_do_not_fit_are_refused(model, changed, words):
    with pytest.raises(ValueError, match=words):
        Ensemble([model, renamed(model, **changed)])


def test_models_whose_classes_exclude_each_other_are_refused_together_and_with_smooth_edges(model):
    options = {"class_names": ("a", "b"), "width": 4, "exclusive": True}
    one, other = (jaxseg.create("paxray_unet", seed=seed, **options) for seed in (0, 1))
    for models in ([one, other], [model, one], [one, model]):
        with pytest.raises(ValueError, match=r"'paxray_unet' exclude each other.*; use one model"):
            jaxseg.Segmenter(models)
    with pytest.raises(ValueError, match=r"edges 'smooth' would leave pixels without a class.* choose 'original'"):
        jaxseg.Segmenter(one, edges="smooth")
    assert jaxseg.Segmenter(one, confidence=True).card.model == "paxray_unet"


def test_the_card_of_several_models_names_all_and_the_same_weights_are_refused(model):
    model.card = dataclasses.replace(model.card, params_sha256="1" * 64, note="on phantoms")
    card = Ensemble([model, renamed(model, params_sha256="2" * 64, note="on X-rays")]).card
    assert card.title == "cxas and 1 more"
    assert card.params_sha256 == f"{'1' * 64}+{'2' * 64}"
    assert card.note == "on phantoms; on X-rays"
    with pytest.raises(ValueError, match="the same weights"):
        Ensemble([model, renamed(model, params_sha256="1" * 64)])
