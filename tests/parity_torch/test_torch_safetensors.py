"""PyTorch loads the safetensors files of jaxseg, and jaxseg those of PyTorch, without loss."""

import numpy as np
import pytest
import safetensors.torch
import torch
from flax import nnx

import jaxseg
from benchmarks.torch_models.unet import BackboneUNet

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def network():
    """Returns a U-Net of PyTorch with random weights and statistics."""
    torch.manual_seed(0)
    found = BackboneUNet(3).eval()
    for buffer in found.buffers():
        if buffer.is_floating_point():
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    return found


def test_pytorch_loads_our_file_strictly_into_the_original_network(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "x.pth")
    jaxseg.convert(tmp_path / "x.pth", tmp_path / "x.safetensors", model="cxas", class_names=["a", "b", "c"])
    tensors = safetensors.torch.load_file(tmp_path / "x.safetensors")
    other = BackboneUNet(3)
    other.load_state_dict(tensors)  # strict: every name and shape must fit
    for name, wanted in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(other.state_dict()[name], wanted), name


def test_our_reader_takes_the_file_of_pytorch(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "x.pth")
    safetensors.torch.save_file(network.state_dict(), tmp_path / "x.safetensors")
    names = {"class_names": ["a", "b", "c"]}
    one, other = (jaxseg.load("cxas", tmp_path / name, **names) for name in ("x.pth", "x.safetensors"))
    first, second = (nnx.to_flat_state(nnx.state(model)) for model in (one, other))
    assert len(first) == len(second) > 100
    for (path, wanted), (_, found) in zip(first, second, strict=True):
        np.testing.assert_array_equal(found.get_value(), wanted.get_value(), err_msg=str(path))


def test_bfloat16_tensors_are_read(network, tmp_path):
    half = {name: tensor.to(torch.bfloat16) for name, tensor in network.state_dict().items() if "num_" not in name}
    safetensors.torch.save_file(half, tmp_path / "x.safetensors")
    model = jaxseg.load("cxas", tmp_path / "x.safetensors", class_names=["a", "b", "c"])
    wanted = half["head.out.conv.bias"].to(torch.float32).numpy()
    np.testing.assert_array_equal(model.classify.bias[...], wanted)
