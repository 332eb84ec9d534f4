"""Pictures as masks: black and white ones are read, label maps and other shapes in disguise are refused or named."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from jaxseg.images.picture import ImageError
from jaxseg.masks.pictures import parse_levels
from jaxseg.masks.read import open_masks, read_masks
from jaxseg.post_dae.data import MaskFolder
from jaxseg.post_dae.denoise import checked

SIDE = 96
AREAS = np.zeros((SIDE, SIDE), np.uint8)  # four classes: background, and three that touch each other
AREAS[16:76, 12:40], AREAS[24:56, 34:66], AREAS[38:68, 56:86] = 1, 2, 3
MASK = AREAS > 0


def drawn(scale: int = 1) -> Image.Image:
    """Returns two ellipses and a thin triangle, white on black."""
    picture = Image.new("L", (SIDE * scale, SIDE * scale))
    pen = ImageDraw.Draw(picture)
    for box in ((10, 15, 40, 75), (52, 15, 84, 80)):
        pen.ellipse([scale * value for value in box], fill=255)
    pen.polygon([(scale * x, scale * y) for x, y in ((45, 5), (48, 30), (46, 40))], fill=255)
    return picture


def levels(*values: int) -> Image.Image:
    return Image.fromarray(np.array(values, np.uint8)[AREAS])


def saved(folder, picture: Image.Image, suffix: str = "png", **options):
    picture.save(folder / f"x.{suffix}", **options)
    return folder / f"x.{suffix}"


def refused(path, message: str) -> None:
    """Checks that both readers of mask pictures refuse a file."""
    with pytest.raises(ImageError, match=f"^{path.name}: .*{message}"):
        read_masks(path)
    with pytest.raises(ImageError, match=f"^{path.name}: .*{message}"):
        MaskFolder(path.parent, (SIDE, SIDE), files=(path,), blank=True)[0]


@pytest.mark.parametrize(
    ("values", "listed"),
    [
        ((0, 1, 2, 3), "0, 1, 2, 3"),
        ((0, 85, 170, 170), "0, 85, 170"),
        ((0, 127, 127, 255), "0, 127, 255"),
        ((0, 128, 255, 255), "0, 128, 255"),
        ((0, 254, 255, 255), "0, 254, 255"),
        ((0, 1, 255, 255), "0, 1, 255"),
        ((0, 1, 254, 255), "0, 1, 254, 255"),
        ((127, 255, 255, 255), "127, 255"),
        ((254, 255, 255, 255), "254, 255"),
        ((0, 50, 100, 127), "0, 50, 100, 127"),
    ],
)
def test_a_label_map_is_refused_with_its_levels(tmp_path, values, listed):
    for mode in ("L", "RGB", "RGBA", "LA", "P"):
        refused(
            saved(tmp_path, levels(*values).convert(mode)), f"label map with the grey levels {listed}, not one mask"
        )


@pytest.mark.parametrize("name", ["labelmap_0_127_255", "labelmap_0_85_170"])
def test_the_label_maps_that_were_read_as_masks_are_refused(kit, name):
    listed = name.removeprefix("labelmap_").replace("_", ", ")
    with pytest.raises(ImageError, match=f"grey levels {listed}, .*--label LEVEL=NAME"):
        read_masks(kit.folder / "cases" / f"{name}.png")


def test_levels_of_sixteen_bits_many_levels_and_colours_are_refused(tmp_path):
    refused(saved(tmp_path, Image.fromarray(AREAS.astype(np.uint16) * 400)), "1 or 8 bits, .* for a label map, name")
    many = (np.arange(SIDE)[:, None] // 8 * 12 + np.arange(SIDE) // 8).astype(np.uint8) + np.uint8(100)
    refused(saved(tmp_path, Image.fromarray(np.where(MASK, many, 0).astype(np.uint8))), "label map .* levels")
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)[AREAS]
    refused(saved(tmp_path, Image.fromarray(colours)), "label map of 4 colours .#000000, #0000ff, #00ff00, #ff0000")
    almost = np.array([[0, 0, 0], [255, 250, 240], [255, 240, 250], [255, 255, 255]], np.uint8)[AREAS]
    refused(saved(tmp_path, Image.fromarray(almost)), "label map of 4 colours")


def test_thin_structures_and_rings_of_a_level_are_no_soft_edges(tmp_path):
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[10:40, 10:40], pixels[70, 5:80] = 255, 128
    refused(saved(tmp_path, Image.fromarray(pixels)), "grey levels 0, 128, 255")
    pixels[70] = 0
    pixels[8:42, 8:42][pixels[8:42, 8:42] == 0] = 128
    refused(saved(tmp_path, Image.fromarray(pixels)), "grey levels 0, 128, 255")


SOFT = {
    **{f"smooth {n}": drawn(n).resize((SIDE, SIDE), Image.Resampling.BOX) for n in (2, 3, 4)},
    "lanczos": drawn(4).resize((SIDE, SIDE), Image.Resampling.LANCZOS),
    "blurred": drawn().filter(ImageFilter.GaussianBlur(2)),
    "enlarged": drawn().resize((3 * SIDE, 3 * SIDE), Image.Resampling.BILINEAR),
    "enlarged smooth": drawn(4).resize((SIDE, SIDE), Image.Resampling.BOX).resize((2 * SIDE, 2 * SIDE), 0),
    "hard": drawn(),
    "dim": levels(10, 245, 245, 245),
}


@pytest.mark.parametrize("name", SOFT)
def test_soft_edges_are_read_as_before(tmp_path, name):
    expected = np.asarray(SOFT[name])
    for mode in ("L", "RGB", "RGBA"):
        loaded = read_masks(saved(tmp_path, SOFT[name].convert(mode)))
        np.testing.assert_array_equal(loaded.masks[0], expected > 127)
        assert not loaded.notes
    source = MaskFolder(tmp_path, expected.shape, files=(tmp_path / "x.png",))
    np.testing.assert_allclose(source[0]["mask"][..., 0], expected / 255, atol=1e-6)


@pytest.mark.parametrize("quality", [5, 50, 95])
def test_noise_of_jpeg_files_is_ignored_also_if_they_were_stored_again(tmp_path, quality):
    for picture in (drawn(), SOFT["smooth 4"], SOFT["blurred"]):
        path = saved(tmp_path, picture, "jpg", quality=quality)
        again = saved(tmp_path, Image.open(path))
        expected = np.asarray(Image.open(path)) > 127
        np.testing.assert_array_equal(read_masks(path).masks[0], expected)
        np.testing.assert_array_equal(read_masks(again).masks[0], expected)


def test_a_lossy_label_map_is_refused(tmp_path):
    refused(saved(tmp_path, levels(0, 128, 255, 255), "jpg", quality=90), "may be a label map, which needs a lossless")
    with pytest.raises(ImageError, match="x.jpg: a lossy picture has no exact levels"):
        read_masks(tmp_path / "x.jpg", levels={128: "heart"})


def alpha(colour: int, values: np.ndarray, mode: str = "RGBA") -> Image.Image:
    grey = np.full(values.shape, colour, np.uint8)
    return Image.fromarray(np.dstack([grey] * (len(mode) - 1) + [values.astype(np.uint8)]), mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("colour", [0, 90, 255])
@pytest.mark.parametrize("opaque", [255, 1])
def test_a_shape_in_the_alpha_channel_is_read_with_a_note(tmp_path, mode, colour, opaque):
    path = saved(tmp_path, alpha(colour, MASK * opaque, mode))
    loaded = read_masks(path)
    np.testing.assert_array_equal(loaded.masks[0], MASK)
    assert loaded.notes == ("x.png: only the alpha channel carries a shape: its opaque pixels are the mask",)
    with pytest.raises(ImageError, match="x.png: only the alpha channel carries a shape; write"):
        MaskFolder(tmp_path, (SIDE, SIDE), files=(path,))[0]


@pytest.mark.parametrize("name", ["rgba_black_alpha", "rgba_white_alpha"])
def test_the_masks_whose_alpha_was_ignored_are_read(kit, name):
    loaded = read_masks(kit.folder / "cases" / f"{name}.png")
    np.testing.assert_array_equal(loaded.masks, read_masks(kit.folder / "cases" / "plain.png").masks)
    assert len(loaded.notes) == 1


def test_a_constant_or_equal_alpha_channel_changes_nothing(tmp_path):
    for values in (np.full(MASK.shape, 255), np.zeros(MASK.shape), MASK * 255):
        picture = Image.fromarray(np.dstack([MASK * 255, values]).astype(np.uint8), "LA")
        loaded = read_masks(saved(tmp_path, picture))
        np.testing.assert_array_equal(loaded.masks[0], MASK)
        assert not loaded.notes


def test_an_ambiguous_alpha_channel_is_refused(tmp_path):
    refused(saved(tmp_path, alpha(0, ~MASK * 255)), "the mask may be the transparent pixels")
    refused(saved(tmp_path, alpha(0, np.array([0, 127, 127, 255])[AREAS])), "(levels 0, 127, 255 in its alpha|only)")
    both = np.dstack([MASK * 255, np.roll(MASK, 9) * 255]).astype(np.uint8)
    refused(saved(tmp_path, Image.fromarray(both, "LA")), "the colours and the alpha channel carry different shapes")


def test_transparency_of_palettes_and_grey_pictures_is_an_alpha_channel(tmp_path):
    palette = Image.fromarray(MASK.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    assert not read_masks(saved(tmp_path, palette, transparency=0)).notes
    palette.putpalette([0, 0, 0, 0, 0, 0])
    loaded = read_masks(saved(tmp_path, palette, transparency=0))
    np.testing.assert_array_equal(loaded.masks[0], MASK)
    assert len(loaded.notes) == 1
    refused(saved(tmp_path, Image.fromarray(MASK.astype(np.uint8) * 255), transparency=255), "carry different shapes")


def test_a_label_map_is_read_with_names_for_its_levels(tmp_path):
    path = saved(tmp_path, levels(0, 127, 200, 255))
    loaded = read_masks(path, levels={127: "heart", 255: "lung", 3: "spine"}, classes="lung,heart,spine")
    assert loaded.names == ("heart", "lung", "spine")
    np.testing.assert_array_equal(loaded.masks, [AREAS == 1, AREAS == 3, AREAS == 9])
    assert loaded.notes == ("x.png: levels without a name are ignored: 200",)
    with pytest.raises(ImageError, match="x.png: has the levels 0, 127, 200, 255, but names were given for 128"):
        read_masks(path, levels={128: "heart"})
    indices = Image.fromarray(AREAS, "P")
    indices.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    for picture in (indices, Image.fromarray(AREAS.astype(np.uint16) * 300)):
        factor = 300 if picture.mode != "P" else 1
        found = read_masks(saved(tmp_path, picture), levels={factor: "a", 2 * factor: "b", 3 * factor: "c"})
        np.testing.assert_array_equal(found.masks, [AREAS == 1, AREAS == 2, AREAS == 3])
    refused_alpha = saved(tmp_path, alpha(0, MASK * 255))
    with pytest.raises(ImageError, match="only the alpha channel"):
        read_masks(refused_alpha, levels={255: "lung"})


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_an_array_is_a_label_map_too(tmp_path, save):
    path = tmp_path / ("x.npy" if save is np.save else "x.npz")
    save(path, AREAS)
    with pytest.raises(ImageError, match=f"{path.name}: has values from 0 to 3; .*--label VALUE=NAME .* 0, 1, 2, 3"):
        read_masks(path)
    loaded = read_masks(path, levels={1: "heart", 3: "lung"})
    np.testing.assert_array_equal(loaded.masks, [AREAS == 1, AREAS == 3])
    assert loaded.notes == (f"{path.name}: levels without a name are ignored: 2",)
    save(path, AREAS[None])
    with pytest.raises(ImageError, match=r"a label map is one \(H, W\) array, this file holds 1 masks"):
        read_masks(path, levels={1: "heart"})


def test_levels_that_make_no_sense_are_refused(tmp_path):
    for texts, message in (
        (["heart"], "'heart' is not LEVEL=NAME"),
        (["127="], "is not LEVEL=NAME"),
        (["x=heart"], "levels are 0 to 65535"),
        (["65536=heart"], "levels are 0 to 65535"),
        (["1=heart", "1=lung"], "occurs twice"),
        (["1=heart", "2=heart"], "occurs twice"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_levels(texts)
    path = saved(tmp_path, levels(0, 127, 200, 255))
    for options, message in (
        ({"levels": {}}, "levels must map whole numbers to names"),
        ({"levels": {"127": "heart"}}, "levels must map"),
        ({"levels": {1: "a", 2: "a"}}, "two levels have the same name"),
        ({"levels": {1: "a"}, "names": ["b"]}, "give names or levels, not both"),
    ):
        with pytest.raises(ValueError, match=f"x.png: {message}"):
            open_masks(path, **options)
    with pytest.raises(ImageError, match="a label map, which is one png, npy or npz file"):
        open_masks(tmp_path, levels={1: "a"})


def test_masks_for_training_are_channels_of_label_maps(tmp_path):
    path = saved(tmp_path, levels(0, 127, 200, 255))
    source = MaskFolder(tmp_path, (SIDE, SIDE), 2, files=(path,), labels=("255=lung", "127=heart"))
    np.testing.assert_array_equal(source[0]["mask"], np.stack([AREAS == 1, AREAS == 3], -1))


def test_an_array_in_memory_that_is_a_label_map_is_refused():
    with pytest.raises(ImageError, match="label map with the grey levels 0, 127, 255"):
        checked(np.asarray(levels(0, 127, 127, 255)))
    np.testing.assert_allclose(checked(np.asarray(SOFT["smooth 4"])), np.asarray(SOFT["smooth 4"]) / 255, atol=1e-6)
