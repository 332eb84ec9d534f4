"""The masks of one image as files and as a DataFrame: every format is read back, suffixes, and what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from joint_masks import shapes
from pycocotools import mask as rle

from jaxseg.images.read import read_picture
from jaxseg.masks.read import read_masks
from jaxseg.masks.save import FORMATS
from jaxseg.masks.segmentation import Segmentation

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools raises it

SUFFIXES = {"npy": ".npy", "npz": ".npz", "json": ".json", "coco-lines": ".jsonl", "parquet": ".parquet"}


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "dicom-seg"])
def test_every_format_is_written_by_name_and_read_back(tmp_path, kind):
    found = shapes()
    path = found.save(tmp_path / "chest", kind)
    assert path == tmp_path / f"chest{SUFFIXES.get(kind, '')}"
    names = None if kind in ("json", "coco-lines", "parquet", "png", "jpg") else found.names
    loaded = read_masks(path, names=names)
    order = [loaded.names.index(name) for name in found.names]
    if kind == "jpg":
        assert (loaded.masks[order] != found.masks).mean() < 0.01
    else:
        np.testing.assert_array_equal(loaded.masks[order], found.masks)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_the_suffix_chooses_the_format_and_is_not_repeated(tmp_path, kind):
    path = tmp_path / f"chest.v1{SUFFIXES[kind]}"
    for given in (shapes().save(path), shapes().save(str(path)), shapes().save(path, kind)):
        assert given == path
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.fixture
def film(kit):
    """Returns a DICOM file and the size of its image."""
    path = kit.folder / "files" / "mono2_12bit.dcm"
    return path, read_picture(path).size


def test_a_dicom_image_is_referred_to(film, tmp_path):
    image, size = film
    found = shapes(size=size, source=image)
    path = found.save(tmp_path / "chest.seg.dcm")
    loaded = read_masks(path)
    assert loaded.names == ("heart", "left lung")
    np.testing.assert_array_equal(loaded.masks, found.masks[:2])
    with pytest.raises(ValueError, match="was given as an array"):
        shapes(size=size).save(tmp_path / "x.seg.dcm")


def test_bad_formats_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown format 'tiff'; known: dicom-seg, json"):
        shapes().save(tmp_path / "a", "tiff")
    with pytest.raises(ValueError, match="chest.png: the suffix must be one of .npy, .npz"):
        shapes().save(tmp_path / "chest.png")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="mine holds other files, such as letter.txt"):
        shapes().save(tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "mine"
    assert shapes().save(tmp_path / "masks") == shapes(1).save(tmp_path / "masks")  # its own folder is replaced
    with pytest.raises(FileNotFoundError):
        shapes().save(tmp_path / "nowhere" / "a.npy")


def test_a_frame_has_one_row_per_mask(tmp_path):
    found = shapes(source=Path("ward/chest.png"))
    table = found.to_pandas()
    assert table["class"].tolist() == list(found.names)
    assert set(table["image"]) == {"chest.png"}
    assert table["area"].tolist() == found.masks.sum((1, 2)).tolist()
    np.testing.assert_array_equal(table["mean_probability"], [0.75, 0.5, np.nan])
    for row, mask in zip(table.to_dict("records"), found.masks, strict=True):
        counts = {"size": [row["height"], row["width"]], "counts": row["rle"]}
        np.testing.assert_array_equal(rle.decode(counts), mask)
        assert [row[f"box_{end}"] for end in ("x", "y", "width", "height")] == rle.toBbox(counts).tolist()
    stored = pandas.read_parquet(found.save(tmp_path / "chest.parquet"))
    columns = [name for name in table.columns if name != "mean_probability"]
    assert stored[columns].values.tolist() == table[columns].values.tolist()[:2]  # files hold no empty masks


def test_without_pandas_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "import numpy as np\nfrom jaxseg.masks.segmentation import Segmentation\n"
        "try: Segmentation(('a',), (0,), (8, 8), np.zeros((1, 8, 1), np.uint8)).to_pandas()\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "a DataFrame needs pandas: pip install pandas\n"


def test_masks_are_drawn_over_their_image_and_measured(film):
    image, size = film
    found = shapes(size=size, source=image)
    assert found.overlay(width=128).tobytes() == found.overlay(image, width=128).tobytes()
    grey = np.zeros((101, 83), np.uint8)
    assert shapes().overlay(grey, classes="heart").size != shapes().overlay(grey, width=200).size
    with pytest.raises(ValueError, match=r"give the image, as overlay\(image\)"):
        shapes().overlay()
    coarse = np.unpackbits(found.bits, axis=2)
    assert found.measure("area").values["heart_area"] == coarse[0].sum()
    assert np.isnan(found.measure("perimeter").values["never found_perimeter"])
    assert found.measure("box", original_values=True).values["never found_width"] == 0


def test_masks_of_other_shapes_than_the_networks_have_the_same_rows():
    """Runs are computed from the network's grid; they equal those of the enlarged mask for any size of the image."""
    for size in ((32, 32), (5, 200), (200, 5), (31, 33), (1, 1)):
        found: Segmentation = shapes(size=size)
        assert found.to_pandas()["area"].tolist() == found.masks.sum((1, 2)).tolist()
