"""One mask has one area: a report shows the numbers that `jaxseg.extract` gives, and says where it measured."""

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image
from report_kit import masks_of, read_page, values_of, write_pair

import jaxseg
from jaxseg.anatomy.measure import features
from jaxseg.anatomy.segment import Segmenter
from jaxseg.files import atomic_file
from jaxseg.masks.segmentation import Segmentation, on_grid
from jaxseg.report.build import write_report
from jaxseg.report.reading import read_image

FEATURES = "CTR, SCD, area, perimeter, compactness, centroid, box, convexity"
NAMES = ("right lung", "left lung", "heart")
SIZE = (90, 75)


@pytest.fixture(scope="module")
def segmenter():
    """A segmenter whose masks are simple shapes on a grid of 32 x 32 and do not depend on the image."""
    model = jaxseg.create("cxas", class_names=NAMES, backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(32, 32))
    bits = np.packbits(masks_of(1, (32, 32)), axis=2)
    return Segmenter(model, postprocess=_Shapes(bits))


@dataclasses.dataclass(frozen=True)
class _Shapes:
    bits: np.ndarray
    settings = "shapes"

    def __call__(self, found):
        return [dataclasses.replace(each, bits=self.bits) for each in found]


def run(segmenter, folder, *, kind="npy", size=SIZE, **tags):
    """Segments one DICOM file; returns its path and the folder of masks."""
    pixels = np.random.default_rng(0).integers(0, 4000, size).astype(np.uint16)
    (folder / "images").mkdir(parents=True)
    image = write_dicom(folder / "images" / "a.dcm", pixels, PixelSpacing=[0.5, 0.25], **tags)
    jaxseg.segment_folder(folder / "images", folder / kind, segmenter, output_type=kind)
    return image, folder / kind


@pytest.mark.parametrize("kind", ["npy", "npz", "png", "json"])
def test_the_report_shows_the_numbers_of_extract(segmenter, tmp_path, kind):
    image, masks = run(segmenter, tmp_path, kind=kind)
    expected = jaxseg.extract(image, FEATURES, model=segmenter).values
    write_report([image], masks, tmp_path / "r.html", features=FEATURES)
    page = read_page(tmp_path / "r.html")
    found = {key.replace(" ", "_"): value for key, value in values_of(page, 0).items()}
    assert found.keys() == {key.replace(" ", "_") for key in expected}
    for key, value in expected.items():
        shown = found[key.replace(" ", "_")]
        assert shown is None if math.isnan(value) else shown == float(f"{value:.6g}"), key
    assert found["heart_area"] == masks_of(1, (32, 32))[2].sum()
    (sentence,) = page.about["pixels"]
    assert "the network's 32 × 32 grid, on which jaxseg extract measures" in sentence
    assert {kind["grid"] for kind in page.about["kinds"]} == {""}


def test_masks_that_were_changed_afterwards_are_measured_as_stored(segmenter, tmp_path):
    image, masks = run(segmenter, tmp_path)
    changed = np.load(masks / "a.npy")
    changed[2, 0, 0] = True
    with atomic_file(masks / "a.npy") as temporary, temporary.open("wb") as file:
        np.save(file, changed)
    write_report([image], masks, tmp_path / "r.html", features="area")
    page = read_page(tmp_path / "r.html")
    assert values_of(page, 0)["heart area"] == changed[2].sum()
    assert page.about["pixels"][0].startswith("The masks are measured as they are stored, in pixels (px) of the image.")


def test_pixels_of_different_grids_are_in_different_columns(segmenter, tmp_path):
    image, masks = run(segmenter, tmp_path)
    other, theirs = write_pair(tmp_path / "foreign", "b.png", masks_of(0))
    write_report([image, other], [masks / "a.npy", theirs], tmp_path / "r.html", features="CTR, area, compactness")
    page = read_page(tmp_path / "r.html")
    units = {(kind["ending"], kind["unit"], kind["grid"]) for kind in page.about["kinds"]}
    grids = ("32 × 32 grid", "image")
    assert {("area", "px", grid) for grid in grids} < units
    assert {("compactness", "", grid) for grid in grids} < units
    assert {("area_mm2", "mm²", ""), ("CTR", "", "")} < units
    own, foreign = page.about["pixels"]
    assert "32 × 32 grid" in own
    assert foreign.startswith("The masks of 1 of 2 images are measured as they are stored")


def test_areas_in_mm_are_shown_by_default_beside_those_in_pixels(segmenter, tmp_path):
    image, masks = run(segmenter, tmp_path)
    write_report([image], masks, tmp_path / "r.html", features="area")
    page = read_page(tmp_path / "r.html")
    shown = [(page.about["kinds"][kind]["ending"], of) for kind, of, on in page.about["columns"] if on]
    assert shown == [(ending, of) for of in range(3) for ending in ("area", "area_mm2")]


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (47, 95), (512, 1000), (2373, 61)])
def test_masks_are_recovered_on_the_networks_grid(size):
    masks = np.random.default_rng(0).random((2, 32, 32)) > 0.5
    stored = Segmentation(("a", "b"), (0, 1), size, np.packbits(masks, axis=2)).masks
    np.testing.assert_array_equal(on_grid(stored, (32, 32)), masks)


def test_masks_with_fewer_pixels_than_the_grid_cannot_be_recovered():
    assert on_grid(np.zeros((1, 31, 90), bool), (32, 32)) is None
    assert on_grid(np.zeros((1, 90, 31), bool), (32, 32)) is None


def test_a_report_has_the_colours_of_a_preview(segmenter, tmp_path):
    image, masks = run(segmenter, tmp_path)
    write_report([image], masks, tmp_path / "r.html", classes="heart, left lung")
    colours = {item["name"]: item["colour"] for item in read_page(tmp_path / "r.html").about["classes"]}
    picture = np.asarray(jaxseg.visualize(image, masks / "a.npy", sides=False))
    seen = {f"#{bytes(colour.tolist()).hex()}" for colour in np.unique(picture.reshape(-1, 3), axis=0)}
    assert set(colours.values()) <= seen


def test_masks_are_measured_without_all_of_them_in_memory(tmp_path):
    masks = np.zeros((300, 500, 500), bool)
    for k in range(300):
        masks[k, k : k + 9, 3:40] = True
    np.savez_compressed(tmp_path / "a.npz", masks)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 500), np.uint8)).save(tmp_path / "a.png")
    find = features.find_all("CTR, area")
    read_image(tmp_path / "a.png", tmp_path / "a.npz", features=find)
    tracemalloc.start()
    found = read_image(tmp_path / "a.png", tmp_path / "a.npz", features=find)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < masks.nbytes * 0.4  # the bits are an eighth
    areas = {column.class_name: value for column, value in found.values.items() if column.ending == "area"}
    assert list(areas.values()) == [9 * 37] * 300
    assert list(found.masks.names) == list(areas)
