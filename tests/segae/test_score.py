"""Scores of masks: the golden volume, batches, the original's function, and errors."""

import dataclasses

import numpy as np
import pytest
from scoring_files import box, ct, model, save
from volume_files import AFFINE, save_nifti

import jaxseg
from jaxseg.segae.calibration import Calibration
from jaxseg.segae.model import SegAE, SegAEConfig
from jaxseg.segae.score import Request, Scorer, score, segae_inference
from jaxseg.volumes.read import read_volume
from jaxseg.volumes.volume import VolumeError
from jaxseg.weights.fill import fill

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scorer():
    return Scorer(model(), threads=2)


@pytest.mark.full
@pytest.mark.optimised
def test_the_scores_of_the_golden_volume_are_reproduced(kit):
    from flax import nnx

    name, folder = "segae_end_to_end/volume", kit.folder / "files" / "segae_case"
    cfg = SegAEConfig()
    network = nnx.eval_shape(lambda: SegAE(cfg, rngs=nnx.Rngs(0)))
    network = fill(network, kit.weights("segae_resnet50"), SegAE.torch_names(cfg), ignored=SegAE.torch_unused(cfg))
    table, rows = np.zeros((145, 512), np.float32), kit.input(name, "embedding")
    table[[15, 26, 13]] = rows
    network = network.with_embeddings(table)
    network.card = jaxseg.create("segae", backbone="resnet18", width=4).card
    found = [
        score(folder / "ct.nii.gz", folder / f"{organ}.nii.gz", organ, network, per_slice=True)
        for organ in ("kidney_left", "spleen", "liver")
    ]
    assert found[1].mean is None
    kit.check(name, "predictions", np.float32([*found[0].dice, *found[2].dice]))
    kit.check(name, "mean_dice", np.float32([found[0].mean, found[2].mean]))
    ct_data, mask = (read_volume(folder / f"{part}.nii.gz").array for part in ("ct", "liver"))
    assert segae_inference(ct_data, mask, 13, model=network) == pytest.approx(found[2].mean, abs=1e-5)
    assert segae_inference(ct_data, np.zeros_like(mask), 13, model=network) == "n/a"


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_mask_scores_the_same_in_any_batch(scorer, batch):
    other = Scorer(model(), batch_size=batch, threads=1)
    masks = [box() > 0, box(3, 4) > 0, np.zeros(ct().shape, bool), box(2, 12, size=14) > 0]
    requests = [
        Request(ct(), mask, scorer.organ(organ)) for mask, organ in zip(masks, (13, 26, 7, "liver"), strict=True)
    ]
    for one, two in zip(scorer.scores(requests), other.scores(requests), strict=True):
        assert one.slices == two.slices
        np.testing.assert_allclose(one.dice, two.dice, rtol=1e-4, atol=1e-5)
    assert [len(found.slices) for found in scorer.scores(requests)] == [10, 1, 0, 10]


def test_masks_are_taken_from_a_generator_one_at_a_time(scorer):
    taken = []

    def requests():
        for number in range(12):
            taken.append(number)
            yield Request(ct(), box() > 0, scorer.organ("liver"))

    first = next(scorer.scores(requests()))
    assert len(first.slices) == 10
    assert len(taken) < 8


def test_the_number_of_scored_slices_can_be_chosen(scorer):
    found = score(ct(), box(), "liver", model(), slices=None, per_slice=True)
    assert found.slices == tuple(range(1, 13))
    assert score(ct(), box(), "liver", model(), slices=3, per_slice=True).slices == (1, 5, 9)


def cone():
    """Returns a mask whose slices have 1 x 11 to 12 x 11 pixels."""
    mask = np.zeros(ct().shape, np.uint8)
    for z in range(1, 13):
        mask[z, 8 : 8 + z, 10:21] = 1
    return mask


def test_slices_can_be_weighted_by_their_area():
    equal, weighted = (score(ct(), cone(), 13, model(), average=name, per_slice=True) for name in ("slices", "area"))
    assert (weighted.slices, weighted.dice) == (equal.slices, equal.dice)
    assert equal.mean == pytest.approx(np.mean(equal.dice))
    areas = [11 * z for z in weighted.slices]
    assert weighted.pixels == tuple(areas)
    assert weighted.mean == pytest.approx(np.average(equal.dice, weights=areas))
    assert weighted.mean != pytest.approx(equal.mean, abs=1e-4)
    assert score(ct(), 0 * cone(), 13, model(), average="area") is None
    with pytest.raises(ValueError, match="average must be one of slices, area, got 'volume'"):
        Scorer(model(), average="volume")


def calibrated_model():
    found = model()
    calibration = Calibration((-10.0, 10.0), (0.25, 0.75), margin=0.3, masks=9)
    found.card = dataclasses.replace(found.card, calibration=calibration.text())
    return found


def test_a_calibration_in_the_card_is_applied_unless_it_is_refused():
    plain, raw = (
        score(ct(), box(), 13, network, per_slice=True, **options)
        for network, options in ((model(), {}), (calibrated_model(), {"calibrated": False}))
    )
    found = score(ct(), box(), 13, calibrated_model(), per_slice=True)
    assert raw == plain
    assert plain.interval is None
    np.testing.assert_allclose(found.dice, 0.5 + np.array(plain.dice) / 40, atol=1e-6)
    assert found.interval == pytest.approx((found.mean - 0.3, found.mean + 0.3))
    with pytest.raises(ValueError, match="the model has no calibration; `jaxseg evaluate --run RUN --calibrate`"):
        Scorer(model(), calibrated=True)


def test_an_interval_is_shown_only_for_scores_it_was_fitted_for():
    weighted = score(ct(), cone(), 13, calibrated_model(), average="area", per_slice=True)
    equal = score(ct(), cone(), 13, calibrated_model(), per_slice=True)
    assert weighted.dice == equal.dice
    assert equal.interval is not None
    assert weighted.interval is None


def test_scores_with_and_without_a_calibration_are_not_mixed():
    plain, found = Scorer(model()).settings, Scorer(calibrated_model()).settings
    assert "calibration" not in plain
    assert found.pop("calibration")
    assert found == plain


def test_organ_names_of_the_original_are_accepted(scorer):
    right, wrong = (Scorer(model(), names=names).organ("urinary_bladder").name for names in ("right", "original"))
    assert (right, wrong) == ("bladder", "prostate")


def test_files_and_models_on_disk_are_read(tmp_path, scorer):
    save(tmp_path / "model")
    for name, array in (("ct.nii.gz", ct()), ("mask.nii.gz", box())):
        save_nifti(tmp_path / name, array)
    found = score(tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz", "liver", tmp_path / "model")
    assert found == pytest.approx(score(ct(), box(), 13, scorer), abs=1e-5)
    assert jaxseg.score is score
    assert jaxseg.segae_inference is segae_inference


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mask": box()[1:]}, "the mask is 13 x 30 x 34, the CT is 14 x 30 x 34"),
        ({"mask": box().transpose(2, 1, 0)}, "axes may be in another order"),
        ({"mask": np.where(box(), 2, 0) + box(3, 5, row=20)}, "a mask holds 0 and 1, this one holds 0, 1, 2"),
        ({"mask": box() * 0.4}, "a mask holds 0 and 1"),
        ({"mask": np.where(box(), 1, np.nan)}, "NaN or infinite"),
        ({"ct": np.where(box(), np.nan, ct())}, "NaN or infinite"),
        ({"ct": ct() / 1000}, "look normalised already"),
        ({"ct": np.clip(ct(), 0, 255)}, "look like an 8-bit image"),
        ({"ct": ct()[3], "mask": box()[3]}, "give a single slice as array"),
        ({"organ": "lver"}, "did you mean 'liver'"),
        ({"organ": 145}, "no organ 145"),
    ],
)
def test_bad_input_is_refused(scorer, changed, words):
    given = {"ct": ct(), "mask": box(), "organ": "liver"} | changed
    with pytest.raises(ValueError, match=words):
        score(given["ct"], given["mask"], given["organ"], scorer)


def test_a_mask_with_another_orientation_is_refused(tmp_path, scorer):
    turned = AFFINE.copy()
    turned[:, 1] *= -1
    save_nifti(tmp_path / "ct.nii.gz", ct())
    save_nifti(tmp_path / "mask.nii.gz", box(), turned)
    with pytest.raises(VolumeError, match="its axes are"):
        score(tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz", "liver", scorer)


def test_models_that_cannot_score_are_refused(scorer, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="a trained segae; got 'demo'|a trained segae; got 'cxas'"):
        Scorer(jaxseg.create("cxas", backbone="resnet18", width=4, num_classes=2))
    with pytest.raises(ValueError, match="no text embeddings"):
        Scorer(jaxseg.create("segae", backbone="resnet18", width=4))
    with pytest.raises(ValueError, match="options slices belong to the Scorer"):
        score(ct(), box(), "liver", scorer, slices=3)
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path))
    with pytest.raises(OSError, match="best_resnet50_model_40_samples.pth"):
        segae_inference(ct(), box(), 13)


def test_files_are_checked_before_the_model(tmp_path):
    np.save(tmp_path / "ct.npy", ct())
    for files in (("nowhere.npy", "mask.npy"), ("ct.npy", "nowhere.npy")):
        with pytest.raises(FileNotFoundError, match="nowhere.npy: no such file or folder"):
            score(*(tmp_path / name for name in files), "liver", tmp_path / "no model")


def test_volumes_are_reoriented_if_the_model_was_trained_on_reoriented_ones(tmp_path, scorer):
    mine = model()
    mine.card = dataclasses.replace(mine.card, orientation="canonical")
    turned = Scorer(mine, threads=2)
    for name, array in (("ct.nii.gz", ct()), ("mask.nii.gz", box(row=3))):
        save_nifti(tmp_path / name, array)
    pair = tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz"
    assert score(*pair, "liver", turned) == score(*pair, "liver", scorer, canonical=True)
    assert score(*pair, "liver", turned) != score(*pair, "liver", scorer)
    assert score(ct(), box(), "liver", turned) == pytest.approx(score(ct(), box(), "liver", scorer), abs=1e-6)


def test_scores_are_equal_on_several_devices(scorer):
    import jax

    both = Scorer(model(), devices=jax.devices()[:2])
    assert score(ct(), box(), "liver", both) == pytest.approx(score(ct(), box(), "liver", scorer), abs=1e-5)
