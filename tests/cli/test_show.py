"""`jaxseg show` draws any masks over their image, and its errors say what to do."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxseg.datasets import phantom
from jaxseg.palette import class_colours
from jaxseg.vocabulary import labels


@pytest.fixture
def tiny(tiny_plain):
    return tiny_plain


@pytest.fixture
def case(tmp_path):
    """Returns a folder with a phantom as a .png file and its masks as an .npy file, and the masks."""
    image, masks = phantom.draw(0, 96)
    Image.fromarray(image).save(tmp_path / "one.png")
    np.save(tmp_path / "masks.npy", masks)
    return tmp_path, masks


def test_masks_are_shown_with_their_names(case, jaxseg_command):
    folder, _ = case
    (folder / "names.json").write_text(json.dumps(phantom.CLASSES))
    arguments = ("show", "-i", folder / "one.png", "--masks", folder / "masks.npy", "--labels", folder / "names.json")
    code, out, err = jaxseg_command(
        *arguments, "--classes", "heart", "--title", "truth", "-o", folder / "new" / "a.png"
    )
    assert (code, out, err) == (0, "", f"The picture is {folder / 'new' / 'a.png'}\n")
    with Image.open(folder / "new" / "a.png") as shown:
        assert (shown.format, shown.mode) == ("PNG", "RGB")
        assert shown.width > 768
        assert (np.asarray(shown) == class_colours(["heart"])[0]).all(axis=-1).any()
    assert jaxseg_command(*arguments, "-o", folder / "b.JPG")[0] == 0
    with Image.open(folder / "b.JPG") as shown:
        assert shown.format == "JPEG"


def test_each_option_changes_the_picture(case, jaxseg_command):
    folder, _ = case
    pictures = set()
    for options in ([], ["--alpha", "0"], ["--no-sides"], ["--title", "x"], ["--classes", "class_002"]):
        arguments = (
            "show",
            "-i",
            folder / "one.png",
            "--masks",
            folder / "masks.npy",
            *options,
            "-o",
            folder / "a.png",
        )
        assert jaxseg_command(*arguments, "--overwrite")[0] == 0
        pictures.add((folder / "a.png").read_bytes())
    assert len(pictures) == 5


@pytest.mark.slow
def test_masks_are_found_in_the_results_of_segment(images, tiny, tmp_path, jaxseg_command):
    code, _, err = jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny, "-g", "cpu")
    assert code == 0, err
    for name in ("one.png", "two.jpg"):
        arguments = ("show", "-i", images / name, "--masks", tmp_path / "out", "--classes", "lung halves, heart")
        code, _, err = jaxseg_command(*arguments, "-o", tmp_path / f"{name}.png")
        assert (code, err) == (0, f"The picture is {tmp_path / name}.png\n")


def test_a_folder_with_one_picture_per_class_holds_the_masks_of_the_image(case, jaxseg_command):
    folder, masks = case
    (folder / "classes").mkdir()
    for name, mask in zip(("heart", "lung"), masks, strict=False):
        Image.fromarray(mask).save(folder / "classes" / f"{name}.png")
    arguments = ("show", "-i", folder / "one.png", "--masks", folder / "classes", "--classes", "heart,lung")
    assert jaxseg_command(*arguments, "-o", folder / "a.png")[0] == 0


def test_a_folder_with_one_picture_per_image_is_searched(case, jaxseg_command):
    folder, masks = case
    (folder / "heart").mkdir()
    for name in ("one", "other"):
        Image.fromarray(masks[2]).save(folder / "heart" / f"{name}.png")
    arguments = ("show", "-i", folder / "one.png", "--masks", folder / "heart", "--classes", "heart")
    assert jaxseg_command(*arguments, "-o", folder / "a.png")[0] == 0


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"-o": "a.tif"}, 2, "--output: .*a.tif must end in .png, .jpg, .jpeg"),
        ({"-o": "one.png", "--overwrite": None}, 2, "--output: .*one.png is the image itself"),
        ({"-o": "masks.npy"}, 2, "--output: .*masks.npy must end in"),
        ({"-o": "there.png"}, 2, "--output: .*there.png exists; name another file, or replace it with --overwrite"),
        ({"--masks": "none.npy"}, 2, "none.npy"),
        ({"--masks": "empty"}, 2, "--masks: .*looked for the masks of one.png"),
        ({"--masks": "one.png"}, 1, "Error: one.png: has many shades of grey"),
        ({"--masks": "small.npy"}, 1, "the masks are 8 x 8, but the image is 96 x 96"),
        ({"--masks": "values.npy"}, 1, "values.npy: has values from 0 to 3"),
        ({"--classes": "hart"}, 2, "--classes: unknown class 'hart'"),
        ({"--labels": "bad.json"}, 2, "--labels: .*bad.json is not a JSON file"),
        ({"-i": "masks.npy"}, 1, "masks.npy: cannot read .npy"),
    ],
)
def test_errors_say_what_is_wrong_and_nothing_is_written(case, jaxseg_command, change, code, message):
    folder, masks = case
    np.save(folder / "small.npy", masks[:, :8, :8])
    np.save(folder / "values.npy", masks * np.uint8(3))
    (folder / "bad.json").write_text("{")
    (folder / "there.png").touch()
    arguments = {"-i": "one.png", "--masks": "masks.npy", "-o": "a.png"} | change
    (folder / "empty").mkdir()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    flat = [part for key, value in arguments.items() for part in ((key, value) if value else (key,))]
    paths = {"-i", "--masks", "-o", "--labels"}
    flat = [folder / part if k and flat[k - 1] in paths else part for k, part in enumerate(flat)]
    status, out, err = jaxseg_command("show", *flat)
    assert (status, out) == (code, ""), err
    assert re.search(message, err), err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_only_some_of_159_classes_are_shown_by_default(case, jaxseg_command):
    folder, masks = case
    np.save(folder / "all.npy", np.resize(masks, (len(labels.CXAS), 96, 96)))
    sizes = []
    for options in ([], ["--classes", "all"]):
        arguments = ("show", "-i", folder / "one.png", "--masks", folder / "all.npy", *options)
        assert jaxseg_command(*arguments, "-o", folder / f"{len(options)}.png")[0] == 0
        with Image.open(folder / f"{len(options)}.png") as shown:
            sizes.append(shown.width)
    assert sizes[1] > sizes[0]


def test_label_maps_and_masks_in_alpha_channels_are_named(case, jaxseg_command, kit):
    folder, masks = case
    Image.fromarray(np.where(masks[0], 255, np.where(masks[1], 127, 0)).astype(np.uint8)).save(folder / "map.png")
    words = ["show", "-i", folder / "one.png", "--masks", folder / "map.png", "-o", folder / "out.png"]
    code, _, err = jaxseg_command(*words)
    assert code == 1
    assert "map.png: is a label map with the grey levels 0, 127, 255, not one mask: name its classes with --l" in err
    code, _, err = jaxseg_command(*words, "--label", "127=heart")
    assert code == 0
    assert err.startswith("Warning: map.png: levels without a name are ignored: 255\nThe picture is ")
    assert (folder / "out.png").is_file()
    code, _, err = jaxseg_command(*words, "--label", "heart=127")
    assert code == 2
    assert "--label: 'heart=127' is not LEVEL=NAME, such as 127=heart" in err
    alpha = np.dstack([np.zeros_like(masks[0], np.uint8), masks[0].astype(np.uint8) * 255])
    Image.fromarray(alpha, "LA").save(folder / "alpha.png")
    words[4] = folder / "alpha.png"
    code, _, err = jaxseg_command(*words, "--overwrite")
    assert code == 0
    assert "Warning: alpha.png: only the alpha channel carries a shape: its opaque pixels are the mask\n" in err


def test_masks_of_another_image_are_refused(images, tiny, tmp_path, jaxseg_command):
    words = ["segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny, "-ot", "npy"]
    assert jaxseg_command(*words)[0] == 0
    show = ["show", "--masks", tmp_path / "out" / "one.npy", "-o", tmp_path / "x.png"]
    code, _, err = jaxseg_command(*show, "-i", images / "two.jpg")
    assert code == 2
    assert "one.npy: these masks were not made from" in err
    assert jaxseg_command(*show, "-i", images / "one.png")[0] == 0
