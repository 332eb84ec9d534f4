"""Real X-rays and a real `.pth` file give the masks of the PyTorch definition, in every output type."""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import jaxseg
from benchmarks.torch_models.unet import BackboneUNet
from jaxseg.anatomy.segment import Segmenter
from jaxseg.masks.coco import decode_rle
from jaxseg.masks.write import WRITERS

pytestmark = [pytest.mark.torch, pytest.mark.shared, pytest.mark.optimised]
FILES = ("00000001_000.png", "16747_3_1.jpg", "covid-19-pneumonia-58-prior.jpg", "h0001.png", "tb0005.png",
         "tb0007.png", "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm")  # fmt: skip


@pytest.fixture(scope="module")
def reference(kit) -> BackboneUNet:
    model = BackboneUNet(159).eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in kit.weights("cxas_unet_resnet50").items()})
    return model


@pytest.fixture(scope="module")
def segmenter(reference, tmp_path_factory) -> Segmenter:
    path = tmp_path_factory.mktemp("weights") / "UNet_ResNet50_default.pth"
    torch.save({"model": {"module." + k: v for k, v in reference.state_dict().items()}, "epoch": 3}, path)
    return Segmenter(jaxseg.load("cxas", path))


@pytest.fixture(scope="module")
def predicted(segmenter, shared):
    """Returns a function name -> (prepared image, masks); each image is segmented once."""

    @functools.cache
    def predict(name: str):
        prepared = segmenter.prepare(shared / "data" / "cxr" / name)
        return prepared, segmenter.predict([prepared])[0]

    return predict


@pytest.mark.parametrize("name", FILES)
def test_masks_equal_pytorchs_away_from_the_threshold(name, reference, predicted):
    prepared, result = predicted(name)
    with torch.inference_mode():
        logits = reference(torch.from_numpy(prepared.x.transpose(2, 0, 1)[None].copy()))[0].numpy()
    mask = np.unpackbits(result.bits, axis=2).astype(bool)
    sure = np.abs(logits) >= 1e-4 * np.abs(logits).max()  # processors round sums differently
    assert sure.mean() > 0.999
    np.testing.assert_array_equal(mask[sure], (logits > 0)[sure])


@pytest.mark.parametrize("name", [FILES[1], FILES[-1]])
def test_all_output_types_hold_the_same_masks(name, predicted, segmenter, tmp_path):
    result, names = predicted(name)[1], segmenter.card.class_names
    base = tmp_path / "masks"
    written = {kind: WRITERS[kind](result, base, source="x", categories=names) for kind in ("npy", "npz", "json")}
    masks = np.load(written["npy"], mmap_mode="r")
    assert (masks.dtype, masks.shape) == (bool, (159, *result.size))
    with np.load(written["npz"]) as archive:
        np.testing.assert_array_equal(archive["arr_0"], masks)
    annotations = {a["category_id"]: a for a in json.loads(written["json"].read_text())["annotations"]}
    for k in range(159):
        found = decode_rle(annotations[k]["segmentation"]) if k in annotations else np.zeros(result.size, bool)
        np.testing.assert_array_equal(found, masks[k])
    for kind in ("png", "jpg"):
        pictures = WRITERS[kind](result, base)
        for k, name in enumerate(names):
            with Image.open(pictures / f"{name}.{kind}") as picture:
                np.testing.assert_array_equal(
                    np.asarray(picture.convert("L")) > 127, masks[k], err_msg=f"{kind} {name}"
                )
        shutil.rmtree(pictures)
