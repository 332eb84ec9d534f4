"""Tests that every preprocessing gives the right values for every kind of picture and intensity."""

import numpy as np
import pytest
from dicom_files import RAMP, write_dicom
from PIL import Image
from png_files import write_png

from jaxseg.images.picture import luminance
from jaxseg.images.preprocess import MEAN, PREPROCESSING, STD, display
from jaxseg.images.read import INTENSITIES, from_array, read_picture
from jaxseg.nn.indices import bilinear_array

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (3, 4), np.uint8)
COLOUR = RNG.integers(0, 256, (3, 4, 3), np.uint8)
DEEP = RNG.integers(0, 4096, (3, 4, 3), np.uint16)
NARROW, WIDE = {"WindowCenter": 1000, "WindowWidth": 801}, {"WindowCenter": 2000, "WindowWidth": 4001}
KINDS = ("grey", "1 bit", "palette", "rgb", "rgba", "grey16", "rgb16", "la16", "rgba16")
KINDS = (*KINDS, "jpg", *(f"mono{i}{window}" for i in (1, 2) for window in ("", " narrow", " wide")))
ARRAYS = {
    "uint8": (GREY, GREY / 255),
    "rgb uint8": (COLOUR, COLOUR / 255),
    "uint16": (RAMP, RAMP / 3300),
    "int32": (RAMP.astype(np.int32) - 1000, RAMP / 3300),
    "float32": (RAMP.astype(np.float32) / 7, RAMP / 3300),
    "float64": (RAMP * 1e-3 - 1, RAMP / 3300),
}


def ranged(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min())


def written(folder, kind, intensity):
    """Writes a picture of a kind; returns its path and its right values in [0, 1], (H, W) or (H, W, 3)."""
    path = folder / "x.png"
    clinical = intensity == "clinical"
    if kind in ("grey", "rgb", "rgba"):
        pixels = {"grey": GREY, "rgb": COLOUR, "rgba": np.dstack([COLOUR, GREY])}[kind]
        return write_png(path, pixels), (GREY if kind == "grey" else COLOUR) / 255
    if kind in ("1 bit", "palette"):
        image = Image.fromarray(GREY).convert("1" if kind == "1 bit" else "P")
        image.save(path)
        return path, np.asarray(image.convert("RGB")) / 255
    if kind == "jpg":
        Image.fromarray(GREY).save(folder / "x.jpg")
        with Image.open(folder / "x.jpg") as image:
            return folder / "x.jpg", np.asarray(image) / 255
    if kind.endswith("16"):
        pixels = {
            "grey16": DEEP[..., 0],
            "rgb16": DEEP,
            "la16": DEEP[..., :2],
            "rgba16": np.dstack([DEEP, DEEP[..., 0]]),
        }
        write_png(path, pixels[kind])
        if kind == "grey16":
            return path, ranged(DEEP[..., 0]) if clinical else np.minimum(DEEP[..., 0], 255) / 255
        grey = DEEP[..., 0] if kind == "la16" else luminance(DEEP)
        return path, ranged(grey) if clinical else ((DEEP[..., [0]] if kind == "la16" else DEEP) >> 8) / 255
    return dicom(folder / "x.dcm", kind, intensity)


def dicom(path, kind, intensity):
    """Writes a ramp from 0 to 3300 of 12 bits as MONOCHROME1 or 2, with or without a window; returns as `written`."""
    name, _, window = kind.partition(" ")
    tags = {"narrow": NARROW, "wide": WIDE, "": {}}[window]
    write_dicom(path, RAMP, bits=12, PhotometricInterpretation=f"MONOCHROME{name[-1]}", **tags)
    unit = ranged(RAMP)
    if window and intensity != "original":
        centre, width = tags["WindowCenter"], tags["WindowWidth"]
        unit = np.clip((RAMP - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)  # PS3.3, C.11.2.1.2.1
        unit = ranged(unit) if intensity == "cxas-0.0.20" else unit
    return path, unit if name == "mono2" else (unit.max() + unit.min() if intensity != "clinical" else 1) - unit


def check(picture, unit):
    """Checks the input of every network, at the size of the picture and at another, and the picture as displayed."""
    unit = np.repeat(unit[..., None], 3, axis=2) if unit.ndim == 2 else np.broadcast_to(unit, (*unit.shape[:2], 3))
    found = {name: function(picture, picture.size) for name, function in PREPROCESSING.items()}
    right = {"cxas": (unit - MEAN) / STD, "paxray": (unit * 255 - MEAN) / STD, "paxray_folder": unit * 255}
    right |= {f"{name}_{fit}": right[name] for name in ("cxas", "paxray") for fit in ("pad", "crop")}  # the same shape
    assert found.keys() == right.keys()
    for name, x in found.items():
        assert (x.shape, x.dtype) == ((3, 4, 3), np.float32), name
        np.testing.assert_allclose(x, right[name], atol=2e-3 if name.startswith("paxray") else 5e-4, err_msg=name)
    larger = np.stack([bilinear_array(right["paxray_folder"][..., k], (7, 6)) for k in range(3)], axis=-1)
    np.testing.assert_allclose(PREPROCESSING["paxray_folder"](picture, (7, 6)), larger, atol=1e-3)
    np.testing.assert_allclose(PREPROCESSING["paxray"](picture, (7, 6)), (larger - MEAN) / STD, atol=5e-3)
    sampled = right["cxas"][[0, 0, 1, 1, 2, 2]][:, [0, 1, 2, 3]]
    np.testing.assert_allclose(PREPROCESSING["cxas"](picture, (6, 4)), sampled, atol=5e-4)
    grey = unit @ (0.299, 0.587, 0.114)
    np.testing.assert_allclose(display(picture), grey * 255, atol=0.52)


@pytest.mark.parametrize("intensity", INTENSITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_files_give_the_right_values(tmp_path, kind, intensity):
    path, unit = written(tmp_path, kind, intensity)
    check(read_picture(path, intensity=intensity), unit)


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_give_the_right_values(kind):
    array, unit = ARRAYS[kind]
    check(from_array(array), unit)


def test_a_constant_picture_gives_zeros_under_cxas_20(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", np.full((3, 4), 7, np.uint16), bits=12)
    picture = read_picture(path, intensity="cxas-0.0.20")
    assert picture.notes == ("x.dcm: the picture is constant: it became zeros, as in CXAS 0.0.20",)
    check(picture, np.zeros((3, 4)))
