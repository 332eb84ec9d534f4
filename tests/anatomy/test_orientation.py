"""Images that are inverted or turned: the original's decisions, corrections, references and what is refused."""

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
from parity_kit import DATA
from PIL import Image
from vertebra_model import vertebra_model

import jaxseg
from jaxseg.anatomy import orientation
from jaxseg.anatomy.orientation import (
    Reference,
    check_reference,
    find_reference,
    inverted,
    known_reference,
    nearest,
    oriented,
    read_reference,
    similarities,
    write_reference,
)
from jaxseg.anatomy.segment import Segmenter
from jaxseg.card import Card
from jaxseg.datasets import phantom
from jaxseg.images.preprocess import PREPROCESSING
from jaxseg.images.read import from_array
from jaxseg.masks.segmentation import Orientation, Segmentation

GOLDEN = json.loads((DATA / "cxas20" / "registration.json").read_text())
CASES = [(flip, angle) for flip in (False, True) for angle in orientation.ANGLES]
PUBLISHED = Card(
    "cxas",
    "unet",
    (("backbone", "resnet50"), ("num_classes", 159), ("width", 64)),
    ("a",),
    "cxas",
    source="UNet_ResNet50_default.pth",
    source_sha256="0" * 64,
)


def disturbed(picture: np.ndarray, flip: bool, angle: int) -> np.ndarray:
    """Returns a grey picture inverted and turned."""
    return np.ascontiguousarray(np.rot90(255 - picture if flip else picture, angle // 90))


class Quadrants:
    """A network in numpy: a mask of bright pixels; features are the brightness of each quadrant and of the whole."""

    def __init__(self):
        self.calls = []

    def __call__(self, x: np.ndarray) -> tuple:
        self.calls.append(len(x))
        grey = x.mean(axis=3)
        bright = grey.mean(axis=(1, 2))
        halves = (slice(x.shape[1] // 2), slice(x.shape[1] // 2, None))
        parts = [grey[:, rows, columns].mean(axis=(1, 2)) for rows in halves for columns in halves]
        features = np.stack([*parts, 2 * bright, 2 - 2 * bright], axis=1)
        return np.packbits(grey > 0.5, axis=2), None, features.astype(np.float32)

    def reference(self, x: np.ndarray) -> Reference:
        run = [self(np.rot90(image, k)[None])[2][0] for image, k in [(x, 0), (1 - x, 0), (x, 1), (x, 2), (x, 3)]]
        self.calls.clear()
        return Reference(np.stack(run[:2]), np.stack([run[0], *run[2:]]))


def chest() -> np.ndarray:
    """Returns an image (16, 16, 3) in [0, 1] that looks different in each orientation, and dark as a whole."""
    x = np.full((16, 16, 3), 0.05, np.float32)
    x[:8, :8], x[:8, 8:], x[8:, :8] = 0.6, 0.3, 0.12
    return x


@pytest.fixture(autouse=True)
def plain_values(monkeypatch):
    """Adds a preprocessing that only divides by 255, as the network of these tests needs."""
    monkeypatch.setitem(PREPROCESSING, "unit", lambda picture, size: picture.pixels.astype(np.float32) / 255)


def queries() -> list[tuple[dict, np.ndarray]]:
    """Returns the original's cases and their features; those without noise are the features of the reference."""
    packaged = read_reference(orientation.PACKAGED)
    known = {"color": packaged.colours, "rotation": packaged.rotations}
    with np.load(DATA / "cxas20" / "orientation.npz") as arrays:
        noisy = iter(arrays["queries"].astype(np.float32))
    cases = GOLDEN["orientation"]
    return [(case, next(noisy) if case["noise"] else known[case["kind"]][case["of"]]) for case in cases]


def test_the_nearest_reference_is_the_originals():
    packaged = read_reference(orientation.PACKAGED)
    found = queries()
    assert len(found) == 18
    for case, features in found:
        rows = packaged.colours if case["kind"] == "color" else packaged.rotations
        assert nearest(features, rows) == case["nearest"]
        np.testing.assert_allclose(similarities(features, rows), case["similarities"], atol=2e-5)
        assert dataclasses.replace(packaged, packaged=True).fits(features)


def test_the_packaged_reference_has_the_originals_landmarks():
    wanted = GOLDEN["reference_landmarks"]
    found = read_reference(orientation.PACKAGED).landmarks
    assert found == tuple((wanted[name]["x"], wanted[name]["y"]) for name in ("t4", "t10"))


@pytest.mark.parametrize(("flip", "angle"), CASES)
def test_every_orientation_is_found_and_corrected_with_as_few_passes_as_possible(flip, angle):
    network, upright = Quadrants(), chest()
    reference = network.reference(upright)
    x = np.rot90(1 - upright if flip else upright, angle // 90)[None]
    first = network(x)
    (bits, scores), (seen,) = oriented(network, x, first, reference, preprocessing="unit", correct=True)
    assert (seen.inverted, seen.rotation, seen.corrected) == (flip, angle, flip or angle > 0)
    assert len(network.calls) == 1 + flip + (angle > 0)
    assert scores is None
    np.testing.assert_array_equal(bits[0], network(upright[None])[0][0])
    network.calls.clear()
    (kept, _), (seen,) = oriented(network, x, first, reference, preprocessing="unit", correct=False)
    assert (seen.inverted, seen.rotation, seen.corrected) == (flip, angle, False)
    assert len(network.calls) == flip
    np.testing.assert_array_equal(kept[0], network(x)[0][0])


def test_only_the_suspicious_images_of_a_batch_run_again():
    network, upright = Quadrants(), chest()
    reference = network.reference(upright)
    x = np.stack([upright, np.rot90(upright, 2), upright, np.rot90(1 - upright, 1)])
    (bits, _), seen = oriented(network, x, network(x), reference, preprocessing="unit", correct=True)
    assert network.calls == [4, 1, 2]
    assert [(found.inverted, found.rotation) for found in seen] == [(False, 0), (False, 180), (False, 0), (True, 90)]
    assert all((part == bits[0]).all() for part in bits)


@pytest.mark.parametrize("name", ["cxas", "paxray", "paxray_folder"])
def test_an_inverted_input_is_the_input_of_the_inverted_image(name):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    x, wanted = (PREPROCESSING[name](from_array(image), (16, 16)) for image in (pixels, 255 - pixels))
    np.testing.assert_allclose(inverted(x, name), wanted, rtol=1e-5, atol=1e-4)


def test_notes_say_what_was_found_and_what_was_done():
    assert Orientation().note == ""
    assert "looks inverted; it is segmented as it is" in Orientation(inverted=True).note
    assert "inverted and turned by 90 degrees; it was corrected" in Orientation(True, 90, True).note
    assert "turned by 180 degrees (upside down)" in Orientation(rotation=180).note
    assert Orientation(problem="no reason").note.endswith("was not checked: no reason")


@pytest.mark.parametrize("quarters", range(-3, 5))
def test_turned_masks_are_the_masks_of_the_turned_image(quarters):
    rng = np.random.default_rng(quarters + 3)
    mask, scores = rng.random((2, 16, 16)) > 0.5, rng.random((2, 16, 16), np.float32)
    found = Segmentation(("a", "b"), (0, 1), (30, 50), np.packbits(mask, axis=2), scores, (), (0.1, 0.2))
    turned = found.rotated(quarters)
    np.testing.assert_array_equal(np.unpackbits(turned.bits, axis=2), np.rot90(mask, quarters, axes=(1, 2)))
    assert turned.size == turned.masks.shape[1:] == ((50, 30) if quarters % 2 else (30, 50))
    assert turned.spacing_mm == ((0.2, 0.1) if quarters % 2 else (0.1, 0.2))
    back = turned.rotated(-quarters)
    np.testing.assert_array_equal(back.bits, found.bits)
    np.testing.assert_array_equal(back.scores, scores)
    seen = found.seen_as(Orientation(rotation=quarters % 4 * 90, corrected=True))
    np.testing.assert_array_equal(seen.upright.bits, found.bits)


def test_masks_of_a_grid_that_is_not_square_cannot_be_turned():
    with pytest.raises(ValueError, match="8 x 16 pixels cannot be turned"):
        Segmentation(("a",), (0,), (8, 16), np.zeros((1, 8, 2), np.uint8)).rotated(1)


@pytest.mark.parametrize(
    ("changed", "known"),
    [
        ({}, True),
        ({"source": "baseline_models_cxas_UNet_ResNet50_default_repack.pth"}, True),
        ({"source": "best.pth"}, False),
        ({"source": ""}, False),
        ({"model": "paxray"}, False),
        ({"config": (("backbone", "resnet50"), ("num_classes", 3), ("width", 64))}, False),
        ({"config": (("backbone", "resnet18"), ("num_classes", 159), ("width", 64))}, False),
    ],
)
def test_only_the_published_weights_have_a_packaged_reference(changed, known):
    assert (known_reference(dataclasses.replace(PUBLISHED, **changed)) is not None) == known


def test_features_of_other_weights_are_not_judged_by_the_packaged_reference():
    packaged = known_reference(PUBLISHED)
    features = np.random.default_rng(0).permutation(packaged.colours[0])  # as plausible, but of other channels
    network = lambda x: (np.zeros((len(x), 1, 8, 1), np.uint8), None, features[None])  # noqa: E731
    zeros = np.zeros((1, 8, 8, 3))
    _, (seen,) = oriented(network, zeros, network(zeros), packaged, preprocessing="unit", correct=True)
    assert "do not resemble those of the published weights" in seen.note
    assert not packaged.fits(np.zeros(2048, np.float32))


def test_a_reference_survives_its_file_and_is_found_beside_the_weights(tmp_path):
    reference = Quadrants().reference(chest())
    reference = dataclasses.replace(reference, landmarks=((1.5, 2.0), (3.0, 9.25)), weights_sha256="a" * 64, images=7)
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "card.json").write_text("{}")
    assert find_reference(tmp_path / "run") is None
    for place in (tmp_path / "run" / "model" / "reference.npz", tmp_path / "run" / "reference.npz"):
        write_reference(reference, place)
        assert find_reference(tmp_path / "run") == place  # that of the run comes first
    found = read_reference(place)
    assert found.digest == reference.digest
    assert (found.landmarks, found.weights_sha256, found.images) == (reference.landmarks, "a" * 64, 7)
    with np.load(place, allow_pickle=False) as arrays:  # the names of the original's files
        assert {"color_features", "rotation_features", "source", "t4_x", "t4_y", "t10_x", "t10_y"} <= set(arrays)
    with pytest.raises(ValueError, match="must end in .npz"):
        write_reference(reference, tmp_path / "reference.json")
    assert find_reference("cxas") is None


@dataclasses.dataclass
class Described:
    """A model as far as references need it."""

    card: Card
    num_pooled: int = 6

    def coarse_logits_and_pooled(self, x):
        raise NotImplementedError


def test_a_reference_of_other_weights_or_another_model_is_refused():
    reference = dataclasses.replace(Quadrants().reference(chest()), weights_sha256="a" * 64)
    with pytest.raises(ValueError, match=r"made with other weights \(aaaaaaaaaaaa; the model has 000000000000\)"):
        check_reference(reference, Described(PUBLISHED))
    own = dataclasses.replace(PUBLISHED, source_sha256="a" * 64)
    check_reference(reference, Described(own))
    check_reference(reference, Described(dataclasses.replace(own, params_sha256="c" * 64)))  # converted since
    with pytest.raises(ValueError, match="has 6 features, but the model has 2048"):
        check_reference(reference, Described(own, 2048))
    with pytest.raises(ValueError, match="only a square input"):
        check_reference(reference, Described(dataclasses.replace(own, input_size=(64, 128))))
    with pytest.raises(ValueError, match="has no method `coarse_logits_and_pooled`"):
        check_reference(reference, object())


FEATURES = {"color_features": np.ones((2, 4), np.float32), "rotation_features": np.ones((4, 4), np.float32)}
LANDMARKS = {"t4_x": np.array(1.0), "t4_y": np.array(1.0), "t10_x": np.array(2.0), "t10_y": np.array(9.0)}


def archive(content: dict) -> bytes:
    file = io.BytesIO()
    np.savez(file, **content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"color_features": FEATURES["color_features"]}, "has no rotation_features"),
        (FEATURES | {"color_features": np.ones((3, 4), np.float32)}, r"`color_features` has the shape \(3, 4\)"),
        (FEATURES | {"color_features": np.ones((2, 5), np.float32)}, "has 5 and 4 features"),
        (FEATURES | {"color_features": np.ones((2, 4), int)}, "the type int64"),
        (FEATURES | {"color_features": np.array([[None] * 4] * 2)}, "the type object"),
        (FEATURES | {"color_features": np.full((2, 4), np.nan, np.float32)}, "not finite"),
        (FEATURES | {"color_features": np.full((2, 4), 1e300)}, "not finite"),
        (FEATURES | {"rotation_features": np.zeros((4, 4), np.float32)}, "all of them are 0"),
        ({name: rows[:, :0] for name, rows in FEATURES.items()}, "has 0 and 0 features"),
        (FEATURES | {"color_features": np.ones((2, 2**20), np.float32)}, "has the shape"),
        (FEATURES | {"t4_x": np.array(1.0)}, "of the landmarks it has only t4_x"),
        (FEATURES | LANDMARKS | {"t4_x": np.array(np.inf)}, "landmarks are not finite"),
        (FEATURES | LANDMARKS | {"t4_x": np.array([1.0])}, "`t4_x` has the shape"),
        (FEATURES | LANDMARKS | {"t10_x": np.array(1.0), "t10_y": np.array(1.0)}, "less than a pixel apart"),
        (FEATURES | {"weights_sha256": np.array("\x1b[31mred")}, "`weights_sha256` is not a digest"),
        (FEATURES | {"weights_sha256": np.array(b"a" * 64)}, "`weights_sha256` has the shape"),
    ],
)
def test_references_of_strangers_are_checked(content, words, tmp_path):
    path = tmp_path / "reference.npz"
    path.write_bytes(archive(content))
    with pytest.raises(ValueError, match=f"reference.npz is not a reference: .*{words}"):
        read_reference(path)


def test_damaged_and_huge_references_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "reference.npz"
    for content in (
        b"",
        b"no zip file",
        archive(FEATURES)[:-30],
        archive(FEATURES).replace(b"\x00\x00\x80\x3f", b"\x00\x00\x00\x40"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a reference"):
            read_reference(path)
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (2, 2**40)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("color_features.npy", header.getvalue() + bytes(10**6))
        file.writestr("rotation_features.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"`color_features` has the shape \(2, 1099511627776\)"):
        read_reference(path)
    monkeypatch.setattr(orientation, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="references are smaller"):
        read_reference(path)
    with pytest.raises(ValueError, match="is a folder"):
        read_reference(tmp_path)


@pytest.fixture(scope="module")
def tiny(shallow):
    return vertebra_model()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return phantom.draw(0, 64)[0]


@pytest.fixture(scope="module")
def reference(tiny, picture, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "chest.png"
    Image.fromarray(picture).save(path)
    return jaxseg.build_reference(path, tiny)


@pytest.mark.slow
def test_a_network_finds_its_own_reference_in_every_orientation(tiny, reference, picture):
    options = {"reference": reference, "probabilities": True}
    fixing, warning = (Segmenter(tiny, check_orientation=check, **options) for check in ("fix", "warn"))
    unchecked = Segmenter(tiny, check_orientation="off")
    assert unchecked(picture).orientation is None
    upright = fixing(picture)
    assert upright.notes == ()
    numbers = jaxseg.extract(upright, "area, centroid, CTR")
    for flip, angle in CASES:
        image = disturbed(picture, flip, angle)
        fixed, warned = fixing(image), warning(image)
        assert (fixed.orientation.inverted, fixed.orientation.rotation) == (flip, angle)
        np.testing.assert_array_equal(warned.bits, unchecked(image).bits)
        turned = np.rot90(np.unpackbits(upright.bits, axis=2), angle // 90, axes=(1, 2))
        differing = np.unpackbits(fixed.bits, axis=2) != turned
        assert differing.mean() < 1e-3  # 1 - (1 - x) rounds
        assert bool(fixed.notes) == bool(warned.notes) == (flip or angle > 0)
        measured = jaxseg.extract(fixed, "area, centroid, CTR")
        for name, value in numbers.values.items():
            assert measured.values[name] == pytest.approx(value, abs=2, nan_ok=True)
        assert measured.notes == fixed.notes


def test_without_a_reference_a_warning_is_impossible_and_a_correction_is_refused(tiny, picture):
    assert Segmenter(tiny).reference is None
    with pytest.raises(ValueError, match="no reference of upright images is known.*--build-reference"):
        Segmenter(tiny, check_orientation="fix")
    with pytest.raises(ValueError, match="check_orientation must be one of warn, fix, off, got 'yes'"):
        Segmenter(tiny, check_orientation="yes")


def test_results_depend_on_the_correction_and_its_reference_only(tiny, reference):
    made = [Segmenter(tiny, check_orientation=check, reference=reference).settings for check in ("off", "warn", "fix")]
    assert made[0] == made[1]
    assert made[0]["orientation"] == "as stored"
    assert made[2]["orientation"] == f"corrected by {reference.digest}"
