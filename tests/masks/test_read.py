"""Tests that masks are read back as they were written, with their names, and that other files are refused."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from block_masks import NAMES, blocks, segmentation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity_kit import DATA

from jaxseg.images.picture import ImageError
from jaxseg.images.read import read_picture
from jaxseg.masks import read as module
from jaxseg.masks.read import open_masks, read_masks, select
from jaxseg.masks.write import WRITERS
from jaxseg.vocabulary import labels


@pytest.mark.parametrize("kind", ["json", "npy", "npz", "png", "jpg"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_every_written_format_is_read_back(tmp_path, kind, count, rows, columns, seed):
    masks, names = blocks(count, (8 * rows, 8 * columns), seed), labels.CXAS[:count]
    path = WRITERS[kind](segmentation(masks, names), tmp_path / "one", source="one.png", categories=names)
    loaded = read_masks(path, names=names if kind in ("npy", "npz") else None)
    assert loaded.names == tuple(names)
    assert loaded.masks.dtype == bool
    np.testing.assert_array_equal(loaded.masks, masks)
    assert loaded.size == masks.shape[1:]
    np.testing.assert_array_equal(loaded.mask(0), masks[0])


@pytest.mark.parametrize("kind", ["json", "npy", "npz", "png"])
def test_only_the_chosen_classes_are_read(tmp_path, kind):
    masks, names = blocks(len(labels.CXAS), (8, 16)), labels.CXAS
    path = WRITERS[kind](segmentation(masks, names), tmp_path / "one", source="one.png", categories=names)
    chosen = read_masks(path, classes="heart, lung halves")
    assert chosen.names == ("heart", "right lung", "left lung")
    np.testing.assert_array_equal(chosen.masks, masks[[121, 135, 136]])
    with pytest.raises(ValueError, match=r"^one[.a-z]*: unknown class 'hart'; did you mean 'heart'"):
        read_masks(path, classes="hart")


def test_pictures_get_the_order_and_names_of_the_labels(tmp_path):
    masks = blocks()
    path = WRITERS["png"](segmentation(masks, NAMES), tmp_path / "one")
    assert read_masks(path).names == tuple(sorted(["L_R: odd name", "heart", "lung"]))
    named = read_masks(path, names=("spine", *NAMES))
    assert named.names == NAMES
    np.testing.assert_array_equal(named.masks, masks)
    with pytest.raises(ImageError, match="one: no class has the name 'L_R: odd name' of a picture; the names are lung"):
        read_masks(path, names=["lung", "heart"])


def test_pictures_of_cxas_classes_get_the_order_of_cxas(tmp_path):
    masks = blocks(2)
    path = WRITERS["png"](segmentation(masks, ("vertebrae C1", "heart")), tmp_path / "one")
    assert read_masks(path).names == ("vertebrae C1", "heart")


def summary(folder, classes, paths) -> None:
    files = {str(k): {"source": "x", "outputs": {"npy": {"path": path, "stamp": [1]}}} for k, path in enumerate(paths)}
    content = {"jaxseg": "0", "settings": {"classes": list(classes)}, "files": files}
    (folder / "summary.json").write_text(json.dumps(content))


def test_names_come_from_the_run_that_wrote_the_masks(tmp_path):
    (tmp_path / "sub").mkdir()
    for place in ("one.npy", "sub/two.npy", "foreign.npy"):
        np.save(tmp_path / place, blocks())
    summary(tmp_path, NAMES, ["one.npy", "sub/two.npy"])
    assert read_masks(tmp_path / "one.npy").names == NAMES
    assert read_masks(tmp_path / "sub" / "two.npy").names == NAMES
    assert read_masks(tmp_path / "foreign.npy").names == labels.numbered(3)
    WRITERS["png"](segmentation(blocks(), NAMES), tmp_path / "three")
    summary(tmp_path, NAMES, ["three"])
    assert read_masks(tmp_path / "three").names == NAMES


def test_arrays_without_a_run_get_default_names(tmp_path):
    np.save(tmp_path / "few.npy", blocks())
    np.save(tmp_path / "all.npy", blocks(159, (8, 8)))
    assert read_masks(tmp_path / "few.npy").names == ("class_000", "class_001", "class_002")
    assert read_masks(tmp_path / "all.npy").names == labels.CXAS
    assert read_masks(tmp_path / "few.npy", names=NAMES).names == NAMES
    with pytest.raises(ImageError, match=r"few.npy: holds 3 masks, but 2 names were given"):
        read_masks(tmp_path / "few.npy", names=NAMES[:2])
    with pytest.raises(ValueError, match="names must be a list of strings"):
        read_masks(tmp_path / "few.npy", names="heart")


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed], ids=["npy", "npz", "npz compressed"])
@pytest.mark.parametrize("change", [lambda m: m, lambda m: m.astype(np.uint8) * 255, lambda m: m.astype(">i4")])
def test_arrays_of_0_and_1_or_0_and_255_are_masks(tmp_path, save, change):
    path = tmp_path / ("a.npy" if save is np.save else "a.npz")
    save(path, change(blocks()))
    np.testing.assert_array_equal(read_masks(path).masks, blocks())
    save(path, change(blocks()[0]))
    np.testing.assert_array_equal(read_masks(path).masks, blocks()[:1])


def test_arrays_in_fortran_order_are_read_or_refused_but_never_mixed_up(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(blocks()))
    np.savez(tmp_path / "a.npz", np.asfortranarray(blocks()))
    np.testing.assert_array_equal(read_masks(tmp_path / "a.npy").masks, blocks())
    with pytest.raises(ImageError, match=r"a.npz: the array is in Fortran order"):
        read_masks(tmp_path / "a.npz")


@pytest.mark.parametrize(("names", "first"), [(("a", "b", "c"), 1), (("Background", "a", "b", "c"), 1)])
def test_a_label_map_is_split_if_names_are_given(tmp_path, names, first):
    values = np.random.default_rng(0).integers(0, 4, (5, 7)).astype(np.uint8)
    np.save(tmp_path / "map.npy", values)
    loaded = read_masks(tmp_path / "map.npy", names=names, classes="a,c")
    assert loaded.names == ("a", "c")
    np.testing.assert_array_equal(loaded.masks, [values == 1, values == 3])
    with pytest.raises(ImageError, match="has values from 0 to 3; masks are 0 and 1, or an .* label map together with"):
        read_masks(tmp_path / "map.npy")
    with pytest.raises(ImageError, match="the label map has values from 0 to 3, but 2 classes"):
        read_masks(tmp_path / "map.npy", names=["a", "b"])
    with pytest.raises(ImageError, match="the names hold only the background"):
        read_masks(tmp_path / "map.npy", names=["background"])


def test_masks_that_exceed_the_memory_are_refused_but_some_can_be_chosen(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", blocks())
    monkeypatch.setattr(module, "_MAX_PIXELS", blocks()[:2].size)
    with pytest.raises(ImageError, match="3 masks of 24 x 40 are too many; choose fewer classes"):
        read_masks(tmp_path / "a.npy")
    assert len(read_masks(tmp_path / "a.npy", classes="class_000,class_002").masks) == 2


def test_open_masks_decodes_one_at_a_time(tmp_path):
    np.save(tmp_path / "a.npy", blocks() * np.uint8(7))  # values that are not masks, which is found when they are read
    stack = open_masks(tmp_path / "a.npy")
    assert (stack.count, stack.size, stack.names) == (3, (24, 40), labels.numbered(3))
    with pytest.raises(ImageError, match=r"a.npy: has values from 0 to 7"):
        next(iter(stack.read([0])))


def test_groups_can_be_chosen_among_some_classes_of_cxas():
    names = ("heart", "right lung", "left lung")
    assert select(names, "lung halves") == (1, 2)
    with pytest.raises(ValueError, match="masks of lung are missing; there are heart, right lung, left lung"):
        select(names, "lung")
    assert select(("mine", "heart"), "heart") == (1,)


@pytest.mark.slow
def test_a_dicom_seg_is_read_back(tmp_path):
    pytest.importorskip("highdicom")
    source = DATA / "files" / "mono2_12bit.dcm"
    masks = np.zeros((3, *read_picture(source).size), bool)
    masks[0, 2:9, 3:5] = masks[2, 5:] = True
    names = ("heart", "aorta", "left lung")
    options = {"source": str(source), "categories": names, "algorithm": "a model", "labelmap": False, "notes": []}
    given_masks = SimpleNamespace(names=names, indices=(0, 1, 2), size=masks.shape[1:], mask=lambda k: masks[k])
    path = WRITERS["dicom-seg"](given_masks, tmp_path / "one", **options)
    loaded = read_masks(path, classes="left lung, heart")
    assert loaded.names == ("heart", "left lung")
    np.testing.assert_array_equal(loaded.masks, masks[[0, 2]])
    with pytest.raises(ImageError, match=r"^mono2_12bit.dcm: not a DICOM SEG"):
        read_masks(source)


LARGE = """
import pathlib, re, zipfile
import numpy as np
from jaxseg.masks.read import read_masks
shape = (1000, 1000, 1000)
with zipfile.ZipFile("large.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
    with archive.open("arr_0.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for k in range(shape[0]):
            file.write(np.full(shape[1:], k == 7, np.uint8).tobytes())
def peak_mb():
    return int(re.search(r"VmHWM:\\s+([0-9]+)", pathlib.Path("/proc/self/status").read_text())[1]) // 1024
before = peak_mb()
found = read_masks("large.npz")
assert found.mask(7).all() and not found.mask(8).any()
print(peak_mb() - before)
"""


@pytest.mark.slow
def test_a_small_file_with_huge_masks_needs_little_memory(tmp_path):
    """1e9 pixels in a file of some MB: one byte per pixel would take 1,000 MB, and a copy as much again."""
    ran = subprocess.run([sys.executable, "-c", LARGE], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (tmp_path / "large.npz").stat().st_size < 10_000_000
    assert 100 < int(ran.stdout) < 250  # MB
