"""The PyTorch models of the benchmarks equal the published ones: names, every block, and masks from files.

Run by `make test-torch` (`python -m pytest tests/parity_torch` in the repository root, with torch installed).
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.torch_models import pipeline
from benchmarks.torch_models.resnet import VARIANTS, ResNet
from benchmarks.torch_models.unet import BackboneUNet

pytestmark = pytest.mark.torch

CLASSES = {"cxas_unet_resnet50": 159, "paxray_unet_resnet50": 166}
FORWARDS = {
    "cxas_unet_resnet50": ["forward_1x3x128x128", "forward_2x3x96x160", "forward_1x3x101x76"],
    "paxray_unet_resnet50": ["forward_1x3x96x128"],
}
FILES = [
    "rgb8_png",
    "gray8_png",
    "rgba8_png",
    "graya8_png",
    "palette4_png",
    "bit1_png",
    "gray16_range4095_png",
    "gray16_range400_png",
    "gray8_large_png",
    "mono2_12bit_dcm",
    "mono1_12bit_dcm",
    "mono2_rescale_dcm",
    "mono2_negative_slope_dcm",
    "mono1_rescale_dcm",
    "mono2_signed_dcm",
    "mono1_signed_dcm",
    "mono2_one_frame_dcm",
    "mono2_window_dcm",
    "mono2_padding_dcm",
]
TRUNK_PARAMETERS = {  # without the last linear layer: 513,000 or 2,049,000 fewer than in the papers' tables
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
}


@pytest.fixture(scope="module")
def models(kit):
    """Returns a function that fills a model with the kit's weights on its first use."""
    built = {}

    def get(name: str) -> BackboneUNet:
        if name not in built:
            model = BackboneUNet(CLASSES[name])
            model.load_state_dict({key: torch.from_numpy(value) for key, value in kit.weights(name).items()})
            built[name] = model.eval()
        return built[name]

    return get


@pytest.mark.parametrize("name", CLASSES)
def test_state_dict_has_the_published_names_shapes_and_types_in_order(kit, name):
    with torch.device("meta"):
        tensors = BackboneUNet(CLASSES[name]).state_dict()
    found = [[key, list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in tensors.items()]
    assert found == kit.manifest(name)["tensors"]


@pytest.mark.parametrize("name", [f"{model}/{run}" for model, runs in FORWARDS.items() for run in runs])
def test_every_map_and_the_logits_equal_the_originals(kit, models, name):
    x = kit.input(name, "x")
    kit.check(name, "in:x", x)
    with torch.inference_mode():
        model = models(name.split("/")[0])
        maps = model.features(torch.from_numpy(x))
        assert torch.equal(model(torch.from_numpy(x)), maps["logits"])
    for key, value in maps.items():
        kit.check(name, key, value.numpy())
    kit.check(name, "logits_class_mean", maps["logits"].mean(dim=(2, 3)).numpy())
    kit.check(name, "mask_area", (maps["logits"].sigmoid() > 0.5).sum(dim=(2, 3)).numpy())


def test_every_forward_golden_is_compared(kit):
    assert sorted(kit.names("cxas_unet") + kit.names("paxray_unet")) == sorted(
        f"{model}/{run}" for model, runs in FORWARDS.items() for run in runs
    )
    assert sorted(kit.names("cxas_preprocess")) == sorted(f"cxas_preprocess/{name}" for name in [*FILES, "refused"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_trunks_have_the_published_number_of_parameters(variant):
    with torch.device("meta"):
        trunk = ResNet(variant)
        maps = trunk(torch.zeros(1, 3, 97, 64))
    assert sum(parameter.numel() for parameter in trunk.parameters()) == TRUNK_PARAMETERS[variant]
    assert [tuple(map.shape) for map in maps] == [
        (1, channels, *size)
        for channels, size in zip(trunk.channels, [(25, 16), (25, 16), (13, 8), (7, 4), (4, 2)], strict=True)
    ]


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_and_prepared_as_by_the_original(kit, name):
    name = f"cxas_preprocess/{name}"
    image = pipeline.read_image(kit.folder / kit.golden(name)[0]["params"]["file"])
    data = pipeline.preprocess(image)
    assert data.is_contiguous()  # NCHW, as in the original; the other layout would run other kernels
    kit.check(name, "orig_data", np.floor(255 * image.numpy()).astype(np.uint8))
    kit.check(name, "data", data.numpy())
    kit.check(name, "row0", data[0, :, 0].numpy())
    kit.check(name, "col511", data[0, :, :, 511].numpy())


def test_files_that_the_original_refuses_are_refused(kit):
    for name in kit.golden("cxas_preprocess/refused")[0]["params"]["raises"]:
        with pytest.raises(ValueError, match="the original|constant"):
            pipeline.read_image(kit.folder / name)


def test_masks_are_resized_to_the_file_as_by_the_original(kit):
    name = "cxas_output/resize_to_file_size"
    masks = torch.from_numpy(kit.input(name, "mask"))[0]
    for height, width in [(300, 415), (1024, 777), (2021, 1500)]:
        resized = pipeline.resize_masks(masks, (height, width)).numpy()
        kit.check(name, f"{height}x{width}_area", resized.sum(axis=(1, 2)))
        kit.check(name, f"{height}x{width}_packed", np.packbits(resized[:2]))


@pytest.mark.parametrize("name", ["gray8_png", "mono2_12bit_dcm"])
def test_masks_from_files_equal_the_originals(kit, models, tmp_path, name):
    name = f"cxas_end_to_end/{name}"
    params = kit.golden(name)[0]["params"]
    path, model = kit.folder / params["file"], models("cxas_unet_resnet50")
    logits, masks = pipeline.predict(model, pipeline.preprocess(pipeline.read_image(path)))
    kit.check(name, "logits", logits[None].numpy())
    kit.check(name, "logits_class_mean", logits.mean(dim=(1, 2))[None].numpy())
    kit.check(name, "area_512", masks.sum(dim=(1, 2)).numpy())
    labels = json.loads((kit.folder / "facts" / "cxas_labels.json").read_text())["labels"]
    resized = pipeline.segment_file(model, path, tmp_path, labels)
    assert list(resized.shape[1:]) == params["file_size"]
    kit.check(name, "area_file", resized.sum(dim=(1, 2)).numpy())
    for label, mask in zip(labels, resized.numpy(), strict=True):
        with Image.open(tmp_path / path.stem / f"{label}.png") as image:
            assert image.mode == "1"
            np.testing.assert_array_equal(np.asarray(image), mask)
