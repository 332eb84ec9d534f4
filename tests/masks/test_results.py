"""Tests that an image's masks are found in a folder of results, never another image's and never outside of it."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxseg.masks.read import read_masks
from jaxseg.masks.results import classes_of, find_masks, result_of


@pytest.fixture
def image(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(b"an image")
    return tmp_path / "images" / "one.png"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def write_summary(folder, source, outputs, **more) -> None:
    digest = {"sha256": hashlib.sha256(source.read_bytes()).hexdigest()} if isinstance(source, Path) else {}
    entry = {"source": str(source), "status": "done", "outputs": outputs} | digest | more
    content = {"jaxseg": "0.1", "settings": {"classes": ["heart"]}, "files": {"one": entry}}
    (folder / "summary.json").write_text(json.dumps(content))


def output(path, stamp=(1, 2)) -> dict:
    return {"path": path, "stamp": list(stamp)}


def test_the_summary_gives_the_path_of_the_masks(folder, image):
    (folder / "sub").mkdir()
    (folder / "sub" / "one_png.npz").touch()
    (folder / "one.npy").touch()  # it may belong to another image
    write_summary(folder, image, {"npz": output("sub/one_png.npz"), "preview": output("one.preview.jpg")})
    assert find_masks(folder, image) == folder / "sub" / "one_png.npz"
    assert classes_of(folder / "sub" / "one_png.npz") == ("heart",)
    assert classes_of(folder / "one.npy") is None


def test_a_lossless_kind_is_preferred(folder, image):
    (folder / "one").mkdir()
    (folder / "one.json").touch()
    write_summary(folder, image, {"jpg": output("one"), "json": output("one.json")})
    assert find_masks(folder, image) == folder / "one.json"


def test_a_moved_image_is_recognised_by_its_content(folder, image):
    (folder / "one.npy").touch()
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    write_summary(folder, "elsewhere/one.png", {"npy": output("one.npy")}, sha256=digest)
    assert find_masks(folder, image) == folder / "one.npy"
    image.write_bytes(b"another patient's image of the same name")
    with pytest.raises(ValueError, match=r"lists no masks of .*one.png, only of other images"):
        find_masks(folder, image)


def test_masks_of_an_image_that_has_changed_are_out_of_date(folder, image):
    (folder / "one.npy").touch()
    status = image.stat()
    write_summary(folder, image, {"npy": output("one.npy", (status.st_size, status.st_mtime_ns))}, sha256="another")
    assert find_masks(folder, image) == folder / "one.npy"
    image.write_bytes(b"another image under this name")
    with pytest.raises(ValueError, match=r"one.npy: missing or out of date"):
        find_masks(folder, image)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"npy": output("one.npy", ())}, r"one.npy: missing or out of date\); run jaxseg segment again"),
        ({"npy": output("gone.npy")}, "gone.npy: missing or out of date"),
        ({"preview": output("one.preview.jpg")}, "none were made"),
        ({"npy": output("../secret.npy")}, r"names ../secret.npy, which is outside of its folder"),
        ({"npy": output("link.npy")}, "names link.npy, which is outside of its folder"),
    ],
)
def test_untrusted_outputs_are_refused(folder, image, outputs, message):
    (folder / "one.npy").touch()
    (folder.parent / "secret.npy").touch()
    os.symlink(folder.parent / "secret.npy", folder / "link.npy")
    write_summary(folder, image, outputs)
    with pytest.raises(ValueError, match=message):
        find_masks(folder, image)


def test_an_absolute_path_in_a_summary_is_refused(folder, image):
    write_summary(folder, image, {"npy": output(str(image))})
    with pytest.raises(ValueError, match="outside of its folder"):
        find_masks(folder, image)


@pytest.mark.parametrize(
    "text", ["{", '{"jaxseg": 1}', '{"jaxseg": 1, "settings": {"classes": [1]}, "files": {}}', "[" * 9999]
)
def test_a_damaged_summary_is_refused(folder, image, text):
    (folder / "one.npy").touch()
    (folder / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=r"summary.json is not a jaxseg summary, or is damaged"):
        find_masks(folder, image)


@pytest.mark.parametrize(
    "text", ['{"foreground_mean": {"Dice": 0.9}}', '{"made_by": "prepare phantom", "jaxseg": "1"}']
)
def test_the_summary_of_another_program_and_of_a_data_set_is_ignored(folder, image, text):
    (folder / "one.npy").touch()
    (folder / "summary.json").write_text(text)
    assert find_masks(folder, image) == folder / "one.npy"
    assert classes_of(folder / "one.npy") is None


def test_a_summary_that_changed_is_read_again(folder, image):
    for name in ("a.npy", "b.npy"):
        (folder / name).touch()
        write_summary(folder, image, {"npy": output(name)})
        stamp = 10**18 + ord(name[0])
        os.utime(folder / "summary.json", ns=(stamp, stamp))
        assert find_masks(folder, image) == folder / name


@pytest.mark.parametrize("name", ["one.npy", "one.npz", "one.json", "one.seg.dcm", "one.png", "one.jpg"])
def test_without_a_summary_the_name_decides(folder, image, name):
    (folder / name).touch()
    (folder / "one_more.npy").touch()
    assert find_masks(folder, image) == folder / name


def test_a_folder_can_hold_the_masks(folder, image):
    (folder / "one").mkdir()
    assert find_masks(folder, image) == folder / "one"


def test_no_masks_and_several_masks_are_refused(folder, image):
    with pytest.raises(
        ValueError, match=r"looked for the masks of one.png as one \(a folder\), or with .npy.*found none"
    ):
        find_masks(folder, image)
    np.save(folder / "one.npy", 0)
    (folder / "one.png").touch()
    with pytest.raises(ValueError, match=r"found several: one.npy, one.png; name the masks themselves"):
        find_masks(folder, image)
    with pytest.raises(ValueError, match="is not a folder"):
        find_masks(image, image)


def test_the_image_is_not_its_own_mask(image):
    with pytest.raises(ValueError, match="found none"):
        find_masks(image.parent, image)


def test_masks_of_another_image_are_refused(folder, image):
    np.save(folder / "one.npy", np.ones((1, 2, 2), bool))
    status = image.stat()
    stamp = (status.st_size, status.st_mtime_ns)
    write_summary(folder, image.resolve(), {"npy": output("one.npy", stamp)})
    assert read_masks(folder / "one.npy", image=image).names == ("heart",)
    other, moved = image.with_name("two.png"), image.with_name("moved.png")
    other.write_bytes(b"another image")
    moved.write_bytes(image.read_bytes())
    assert read_masks(folder / "one.npy", image=moved).names == ("heart",)
    with pytest.raises(ValueError, match=r"one.npy: these masks were not made from two.png, but from one.png$"):
        read_masks(folder / "one.npy", image=other)
    image.write_bytes(b"a new state of the image")
    with pytest.raises(ValueError, match=r"these masks were not made from one.png, it has changed since$"):
        read_masks(folder / "one.npy", image=image)
    namesake = image.parent / "sub" / image.name
    namesake.parent.mkdir()
    namesake.write_bytes(b"another image of this name")
    with pytest.raises(ValueError, match=r"not made from one.png, but from another file of this name$"):
        read_masks(folder / "one.npy", image=namesake)
    write_summary(folder, str(image), {"denoised": output("one.npy")})  # the source is a file of masks, not the image
    assert read_masks(folder / "one.npy", image=other).masks.all()


def test_a_summary_that_is_nested_too_deeply_is_refused(folder, image):
    (folder / "summary.json").write_text('{"jaxseg": ' + "[" * 50_000)
    with pytest.raises(ValueError, match=r"or is damaged \(its lists and objects are nested too deeply\)"):
        find_masks(folder, image)
    (folder / "summary.json").write_text('{"jaxseg": "0.1", "files": {}}')
    with pytest.raises(ValueError, match=r"or is damaged \('settings' is missing or malformed\)"):
        find_masks(folder, image)


def test_another_result_of_the_run_is_found_unless_it_is_outdated_or_outside(folder, image, tmp_path):
    (folder / "one.confidence.json").touch()
    (tmp_path / "other.json").touch()
    status = image.stat()
    stamp = (status.st_size, status.st_mtime_ns)
    write_summary(folder, image, {"npy": output("one.npy"), "confidence": output("one.confidence.json", stamp)})
    assert result_of(folder / "one.npy", image, "confidence") == folder / "one.confidence.json"
    assert result_of(folder / "one.npy", image, "probabilities") is None
    assert result_of(tmp_path / "one.npy", image, "confidence") is None
    image.write_bytes(b"another image")
    assert result_of(folder / "one.npy", image, "confidence") is None
    stamp = (image.stat().st_size, image.stat().st_mtime_ns)
    write_summary(folder, image, {"confidence": output("../other.json", stamp)})
    assert result_of(folder / "one.npy", image, "confidence") is None
