"""SegAE from the original's layout: what it ignores, its text embeddings, model directories, the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from torch_writer import save

import jaxseg
from jaxseg import registry
from jaxseg.cli.main import cli
from jaxseg.segae.model import SegAE, SegAEConfig, embedding_of
from jaxseg.vocabulary import organs
from jaxseg.weights.load import recognise
from jaxseg.weights.store import save_model
from jaxseg.weights.torch_file import read_torch_file

GOLDEN = "segae_resnet18/forward_2x2x128x128"
UNUSED = ["net.conv1.weight", "net.bn1.weight", "net.bn1.bias", "net.bn1.running_mean", "net.bn1.running_var"]
UNUSED += ["net.bn1.num_batches_tracked", "net.fc.weight", "net.fc.bias"]


@pytest.fixture(scope="module")
def tensors(kit) -> dict[str, np.ndarray]:
    return kit.weights("segae_resnet18")


@pytest.fixture(scope="module")
def checkpoint(tensors, tmp_path_factory):
    return save(tmp_path_factory.mktemp("segae") / "best_resnet18.pth", tensors)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file of text embeddings, and its content."""
    rows = np.random.default_rng(0).normal(size=(145, 512)).astype(np.float32)
    path = tmp_path_factory.mktemp("table") / "label_embedding.npz"
    np.savez(path, ids=np.arange(145), embeddings=rows)
    return path, rows


def answer(kit, model) -> np.ndarray:
    apply, state = jaxseg.functional(model)
    x = jnp.asarray(kit.input(GOLDEN, "x").transpose(0, 2, 3, 1))
    return np.asarray(jax.jit(apply)(state, x, jnp.asarray(kit.input(GOLDEN, "embedding"))))


@pytest.mark.full
def test_the_originals_checkpoint_gives_the_originals_answer(kit, checkpoint, tmp_path):
    folder = jaxseg.convert(checkpoint, tmp_path / "model")
    loaded = [jaxseg.load(checkpoint), jaxseg.load("segae", checkpoint), jaxseg.load("Quality_Sentinel", folder)]
    for model in loaded:
        assert (model.card.model, model.cfg.backbone) == ("segae", "resnet18")
        kit.check(GOLDEN, "out", answer(kit, model)[:, None])


@pytest.mark.slow
def test_the_card_names_the_organs_and_the_licence(checkpoint):
    card = jaxseg.load(checkpoint).card
    assert card.class_names == organs.NAMES
    assert (card.preprocessing, card.input_size) == ("slice_and_mask", (256, 256))
    assert (card.source, card.licence) == ("best_resnet18.pth", "not stated by its authors")
    assert dict(card.config) == {
        "backbone": "resnet18",
        "hidden": 50,
        "truth_map": False,
        "embedding_size": 512,
        "num_labels": 145,
        "width": 64,
        "init": "torch",
        "dtype": "float32",
    }


@pytest.mark.slow
def test_the_published_layout_with_its_335_tensors_is_read(kit, tmp_path):
    path = save(tmp_path / "best_resnet50_model_40_samples.pth", kit.weights("segae_resnet50"))
    assert len(read_torch_file(path)) == 335
    assert recognise(read_torch_file(path), path) is registry.find("segae")
    assert jaxseg.load(path).cfg == SegAEConfig()


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", pytest.param("module.", marks=pytest.mark.full), "model."])
def test_the_unused_tensors_are_ignored_by_name_and_may_be_absent(kit, tensors, tmp_path, prefix):
    lean = {name: array for name, array in tensors.items() if name not in UNUSED}
    assert len(lean) == len(tensors) - 8
    for each in (tensors, lean):
        model = jaxseg.load(save(tmp_path / "x.pth", each, prefix=prefix, under="state_dict"))
        kit.check(GOLDEN, "out", answer(kit, model)[:, None])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net.conv1.bias", "net.bn2.weight", "fc.weight", "net.fc2.weight", "fc3.bias"])
def test_nothing_else_is_ignored(tensors, tmp_path, name):
    path = save(tmp_path / "x.pth", tensors | {name: np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=rf"1 problems[^$]*unexpected  {name}"):
        jaxseg.load(path)


def test_all_misfits_are_listed_at_once(tensors, tmp_path):
    broken = {name: array for name, array in tensors.items() if name != "conv1.bias"}
    broken["fc1.weight"] = np.ones((7, 512), np.float32)
    with pytest.raises(ValueError, match="2 problems") as error:
        jaxseg.load(save(tmp_path / "x.pth", broken))
    assert "missing     conv1.bias  for backbone.stem.conv.bias" in str(error.value)
    assert "mis-shaped  fc1.weight: (7, 512), the model needs (50, 512)" in str(error.value)


@pytest.mark.parametrize("width", [0, 512])
def test_impossible_sizes_of_a_checkpoint_are_value_errors(tensors, tmp_path, width):
    broken = tensors | {"attention2.weight": np.zeros((50, width), np.float32)}
    with pytest.raises(ValueError, match=r"x\.pth: embedding_size: "):
        jaxseg.load(save(tmp_path / "x.pth", broken))


@pytest.mark.full
def test_a_model_without_embeddings_refuses_and_one_with_them_keeps_them(checkpoint, table, tmp_path):
    path, rows = table
    bare = jaxseg.load(checkpoint)
    with pytest.raises(ValueError, match=r"label_embedding\.pkl.*Schuture/Quality-Sentinel"):
        embedding_of(bare.embeddings[...], 13)
    folder = jaxseg.convert(checkpoint, tmp_path / "with", embeddings=path)
    later = save_model(jaxseg.load("segae", checkpoint, embeddings=path), tmp_path / "later", bare.card)
    for model in (jaxseg.load("segae", checkpoint, embeddings=path), jaxseg.load(folder), jaxseg.load(later)):
        assert isinstance(model, SegAE)
        np.testing.assert_array_equal(model.embeddings[...], rows)
        np.testing.assert_array_equal(embedding_of(model.embeddings[...], 13), rows[13])
    assert jaxseg.load(folder).card.note.startswith("text embeddings: label_embedding.npz, sha256 ")
    without = jaxseg.convert(checkpoint, tmp_path / "without")
    np.testing.assert_array_equal(jaxseg.load(without, embeddings=path).embeddings[...], rows)


def test_the_originals_pickle_is_given_with_the_original_name(checkpoint, shared):
    model = jaxseg.load("segae", checkpoint, embeddings=shared / "data" / "segae" / "label_embedding.pkl")
    with np.load(shared / "data" / "segae" / "label_embedding.npz") as expected:
        np.testing.assert_array_equal(model.embeddings[...], expected["embeddings"])


def test_embeddings_are_refused_by_other_models_and_if_they_do_not_fit(kit, checkpoint, table, tmp_path):
    other = kit.folder / "files" / "checkpoints" / "dae_tiny_lightning.ckpt"
    with pytest.raises(ValueError, match="model 'post_dae' takes no text embeddings; leave them out"):
        jaxseg.load(other, embeddings=table[0])
    np.save(tmp_path / "x.npy", np.ones((145, 511), np.float32))
    with pytest.raises(ValueError, match=r"x\.npy: must be \(145, 512\)"):
        jaxseg.convert(checkpoint, tmp_path / "model", embeddings=tmp_path / "x.npy")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_the_command_stores_the_embeddings(checkpoint, table, tmp_path):
    arguments = ["convert", str(checkpoint), str(tmp_path / "model"), "--embeddings", str(table[0])]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "model segae, 145 classes, from best_resnet18.pth; licence of the weights: not stated" in done.output
    np.testing.assert_array_equal(jaxseg.load(tmp_path / "model").embeddings[...], table[1])


@pytest.mark.slow
def test_own_classes_have_their_own_table(tmp_path):
    model = jaxseg.create("segae", class_names=["liver", "heart"], backbone="resnet18", width=4, embedding_size=3)
    assert (model.cfg.num_labels, model.card.class_names) == (2, ("liver", "heart"))
    folder = save_model(model, tmp_path / "model", model.card)
    assert jaxseg.load(folder).cfg == model.cfg


def test_a_segae_refuses_an_x_ray():
    model = jaxseg.create("segae", backbone="resnet18", width=4)
    for options in ({}, {"preprocessing": "cxas"}):
        with pytest.raises(ValueError, match="model 'segae' does not segment: it predicts how good a mask of a CT is"):
            jaxseg.segment(np.zeros((20, 20), np.uint8), model, **options)


def test_it_is_found_by_both_names_and_says_where_its_weights_are(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSEG_HOME", str(tmp_path))
    assert registry.find("quality_sentinel") is registry.find("SegAE")
    with pytest.raises(OSError, match=r"best_resnet50_model_40_samples\.pth"):
        jaxseg.load("segae")
