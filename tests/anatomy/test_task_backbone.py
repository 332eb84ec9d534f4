"""The backbone of PAX-Ray's U-Net starts with torchvision's weights, only in a new run."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from torch_writer import save

from jaxseg.nn import resnet
from jaxseg.nn.layers import Conv
from jaxseg.training import run
from jaxseg.training.task import make_task

pytestmark = pytest.mark.usefixtures("shallow")


def state_dict(cfg: resnet.ResNetConfig) -> dict[str, np.ndarray]:
    """Returns the tensors of a torchvision ResNet with random values."""
    rng, found = np.random.default_rng(0), {}
    backbone = resnet.ResNet(cfg, rngs=nnx.Rngs(0))
    by_path = {".".join(map(str, path)): module for path, module in nnx.iter_modules(backbone)}
    for ours, theirs in resnet.torch_names(cfg).items():
        module = by_path[ours]
        if isinstance(module, Conv):
            shape = np.transpose(module.kernel[...], (3, 2, 0, 1)).shape
            found[f"{theirs}.weight"] = rng.normal(size=shape).astype(np.float32)
            continue
        for name in ("weight", "bias", "running_mean", "running_var"):
            found[f"{theirs}.{name}"] = rng.uniform(0.5, 1, module.scale[...].shape).astype(np.float32)
        found[f"{theirs}.num_batches_tracked"] = np.array(3, np.int64)
    return found | {"fc.weight": np.zeros((7, 32), np.float32), "fc.bias": np.zeros(7, np.float32)}  # unused by ours


def initialised(config):
    """Returns the model from which a new run starts."""
    task = make_task(config)
    return task.initialise(task.model)


@pytest.mark.slow
def test_a_torchvision_file_fills_the_backbone_and_another_depth_is_refused(configured, tmp_path):
    trunk = make_task(configured()).model.cfg.trunk
    tensors = state_dict(trunk)
    path = save(tmp_path / "resnet18.pth", tensors)
    setting = f"model.backbone_weights={json.dumps(str(path))}"
    model = initialised(configured(setting))
    kernel = np.asarray(model.backbone.stem.conv.kernel[...])
    np.testing.assert_array_equal(kernel, tensors["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(model.backbone.stem.norm.mean[...], tensors["bn1.running_mean"])
    safetensors.numpy.save_file(tensors, tmp_path / "resnet18.safetensors")
    other = initialised(configured(f"model.backbone_weights={json.dumps(str(tmp_path / 'resnet18.safetensors'))}"))
    np.testing.assert_array_equal(other.backbone.stem.conv.kernel[...], kernel)
    with pytest.raises(ValueError, match="^model.backbone_weights: [0-9]+ problems"):
        initialised(configured(setting, "model.backbone=resnet34"))


@pytest.mark.full
def test_the_backbone_file_is_read_only_for_a_new_run(configured, tmp_path):
    path, folder = tmp_path / "resnet18.pth", tmp_path / "run"
    tensors = state_dict(make_task(configured()).model.cfg.trunk)
    config = configured(f"model.backbone_weights={json.dumps(str(path))}", "trainer.max_steps=1")
    options = {"devices": jax.devices()[:1]}
    with pytest.raises((ValueError, OSError), match="resnet18.pth"):
        run.train(config, folder, **options)
    assert not folder.exists()  # nothing is written before this error
    save(path, tensors)
    scores = run.train(config, folder, **options)
    path.unlink()
    assert run.train(config, folder, **options) == scores
    assert run.evaluate(folder, "val", **options)["dice"] == pytest.approx(scores["dice"], abs=1e-6)


def test_missing_weights_give_a_one_line_error(configured, tmp_path):
    with pytest.raises((ValueError, OSError), match="none.pth"):
        initialised(configured(f"model.backbone_weights={json.dumps(str(tmp_path / 'none.pth'))}"))
