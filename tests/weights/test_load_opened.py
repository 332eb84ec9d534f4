"""Models whose numbers are read while their program is compiled: equal results, and damage that is found in time."""

import json
import threading

import jax
import numpy as np
import pytest
from flax import nnx
from torch_writer import save

import jaxseg
from jaxseg import files
from jaxseg.anatomy.segment import Segmenter
from jaxseg.weights.fill import torch_tensors
from jaxseg.weights.load import opened

PICTURE = np.random.default_rng(0).integers(0, 256, (70, 60), np.uint8)

pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture(scope="module")
def places(shallow, tmp_path_factory):
    """Returns kind -> the weights of one network, wide enough for Winograd's algorithm; statistics are not trivial."""
    folder = tmp_path_factory.mktemp("weights")
    model = jaxseg.create("cxas", class_names=("a", "b"), backbone="resnet18", width=32)
    rng = np.random.default_rng(1)
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        if path[-1] in ("mean", "var", "scale"):
            leaf.set_value(jax.numpy.asarray(rng.uniform(0.5, 1.5, leaf.shape), "float32"))
    tensors = torch_tensors(model, model.torch_names(model.cfg))
    found = {"PyTorch": save(folder / "x.pth", {name: np.ascontiguousarray(a) for name, a in tensors.items()})}
    for kind, name in (("folder", "model"), ("file", "x.safetensors")):
        found[kind] = jaxseg.convert(found["PyTorch"], folder / name, model="cxas", class_names=("a", "b"))
    return found


@pytest.mark.parametrize("kind", ["PyTorch", "folder", "file"])
def test_masks_equal_those_of_weights_that_were_read_before(places, kind):
    names = {"class_names": ("a", "b")}
    wanted = Segmenter(jaxseg.load("cxas", places[kind], **names), probabilities=True)
    segmenter = Segmenter(opened("cxas", places[kind], **names), probabilities=True)
    assert segmenter.card == wanted.card
    segmenter.compile()
    assert segmenter.compile_seconds > 0
    found, right = segmenter(PICTURE), wanted(PICTURE)
    np.testing.assert_array_equal(found.scores, right.scores)
    np.testing.assert_array_equal(found.bits, right.bits)


def test_the_program_is_compiled_before_the_numbers_are_there(places):
    found, wait = opened(places["folder"]), threading.Event()
    late = found._replace(read=lambda: wait.wait(60) and found.read())
    segmenter = Segmenter(late)
    threading.Timer(0.2, wait.set).start()
    segmenter.compile()
    assert wait.is_set()  # `compile` has waited
    assert not isinstance(jax.tree.leaves(segmenter._runner._model[1])[0], jax.ShapeDtypeStruct)


def test_a_file_that_is_changed_later_does_not_change_the_masks(places, tmp_path):
    folder = jaxseg.convert(places["folder"], tmp_path / "model")
    segmenter = Segmenter(opened(folder))
    segmenter.compile()
    before = segmenter(PICTURE).bits
    path = folder / "params" / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
    np.testing.assert_array_equal(segmenter(PICTURE).bits, before)


def test_damaged_numbers_are_found_when_they_are_read(places, tmp_path):
    folder = jaxseg.convert(places["folder"], tmp_path / "model")
    with (folder / "params" / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x00\xc0\x7f")  # not a number
    segmenter = Segmenter(opened(folder))
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged, or belong to another card"):
            segmenter.compile()
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"params_sha256": files.sha256(folder / "params")}))
    segmenter = Segmenter(opened(folder))
    with pytest.raises(ValueError, match="values that are not finite"):
        segmenter(PICTURE)
