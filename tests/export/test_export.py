"""Exported models give the live model's results for any batch size; absent platforms; replaced files."""

import dataclasses
from pathlib import Path

import annotator_files
import jax
import jax.export
import jax.numpy as jnp
import mask_runs
import numpy as np
import pytest
import segae_runs
import tiny_runs
from flax import nnx
from small_models import SMALL as TINY

import jaxseg
from jaxseg.export.export import PLATFORMS, check_platforms, export_model, inference
from jaxseg.export.exported import beside, load_exported, read_facts
from jaxseg.nn.layers import BatchNorm
from jaxseg.training import run
from jaxseg.training.config.config import Config
from jaxseg.training.plan import make_plan
from jaxseg.training.task import TASKS, make_task

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shallow")]

SIZE = (16, 24)
ACCELERATORS = ("cuda", "tpu")


def tiny(name: str) -> nnx.Module:
    """Returns a small model whose batch statistics differ from the initial ones."""
    model = jaxseg.create(name, **TINY[name])
    rng = np.random.default_rng(1)
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, BatchNorm):
            layer.mean.set_value(jnp.asarray(rng.normal(0, 0.1, layer.mean.shape), jnp.float32))
            layer.var.set_value(jnp.asarray(rng.uniform(0.5, 1.5, layer.var.shape), jnp.float32))
    if name == "segae":
        card, table = model.card, rng.normal(size=(5, 6))
        table[3] = 0
        model = model.with_embeddings(table)
        model.card = card
    return model


def live(model: nnx.Module, *arrays) -> np.ndarray:
    """Returns the output of the model itself in evaluation mode, without folded batch norm."""
    view = nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
    graphdef, state = nnx.split(view)
    compute = type(model).predict if getattr(model.cfg, "exclusive", False) else type(model).__call__
    return np.asarray(jax.jit(lambda state, *arrays: compute(nnx.merge(graphdef, state), *arrays))(state, *arrays))


def images(model: nnx.Module, count: int) -> np.ndarray:
    channels = 2 if model.card.model == "segae" else model.cfg.in_channels
    return np.random.default_rng(count).normal(size=(count, *SIZE, channels)).astype(np.float32)


@pytest.mark.parametrize("name", TINY)
def test_an_exported_model_equals_the_live_one_for_batches_of_two_sizes(tmp_path, name):
    model = tiny(name)
    facts = export_model(model, tmp_path / "new" / "model.stablehlo", image_size=SIZE)
    exported = jaxseg.load_exported(tmp_path / "new" / "model.stablehlo")
    assert exported.facts == facts
    assert (facts.model, facts.platforms) == (name, ("cpu", "cuda", "tpu"))
    assert facts.class_names == model.card.class_names
    for count in (1, 3):
        x, organs = images(model, count), np.array([4, 1, 0], np.int32)[:count]
        rest = (organs,) if name == "segae" else ()
        answers = [np.asarray(model.embeddings[...])[organs]] if rest else []
        wanted = live(model, x, *answers)
        found = np.asarray(exported(x, *rest))
        assert found.shape == (count, *facts.outputs[0].shape[1:])
        assert found.dtype == facts.outputs[0].dtype
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))
    assert wanted.std() > 1e-4


def test_the_dice_of_an_organ_without_an_embedding_is_nan():
    run = inference(tiny("segae"), image_size=SIZE).run
    dice = np.asarray(run(images(tiny("segae"), 4), np.array([3, -1, 5, 2], np.int32)))
    np.testing.assert_array_equal(np.isnan(dice), [True, True, True, False])
    bare = jaxseg.create("segae", **TINY["segae"])
    with pytest.raises(ValueError, match="no text embeddings: give the file"):
        inference(bare)


@pytest.mark.parametrize("name", TINY)
def test_inference_can_be_lowered_for_absent_accelerators(name):
    exported = inference(tiny(name), image_size=SIZE).export(ACCELERATORS)
    assert exported.platforms == ACCELERATORS
    assert str(exported.out_avals[0].shape[0]) == "batch"


def opened(task: str, folder: Path, request) -> Config:
    """Returns the configuration of a small run of a task, with its data."""
    if task == "phantom":
        return tiny_runs.configured(folder / "run")
    if task == "segae":
        return segae_runs.opened(folder / "run", segae_runs.save_data(folder / "data"))
    if task == "post_dae":
        data, overrides = mask_runs.write_masks(folder / "data"), mask_runs.overrides()
    elif task == "paxray":
        data = request.getfixturevalue("shared") / "data/paxray"
        overrides = ["data.load_size=64", "data.crop_size=56", "model.width=4", "trainer.batch_size=4"]
    elif task == "named_annotators":
        data, overrides = folder / "data", ["model.width=8", "model.depth=2", "trainer.batch_size=4"]
        for split in ("train", "validate"):
            annotator_files.save_mnist(data, split, 4)
    else:
        data = folder / "data"
        for split in ("train", "validate"):
            annotator_files.save_lidc(data, split, counts=(2, 4, 3, 2), size=16)
        small = {"cmvae": ["model.width=8", "model.depth=2"], "prob_unet": ["model.filters=[4, 8]"]}
        overrides = [*small[task], "trainer.batch_size=4", "data.samples=4"]
    packaged = {"paxray": "paxray_sample", "post_dae": "post_dae", "named_annotators": "named_annotators_mnist"}
    packaged = packaged.get(task, f"{task}_lidc")
    return run.open_run(packaged, folder / "run", data=data, overrides=overrides)


def batch_of(examples: list[dict]) -> dict:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


TASKS = [pytest.param(task, marks=[pytest.mark.shared] if task == "paxray" else []) for task in TASKS]


@pytest.mark.full
@pytest.mark.parametrize("task", TASKS)
def test_training_and_validation_can_be_lowered_for_absent_accelerators(task, tmp_path, request):
    config = opened(task, tmp_path, request)
    prepared = make_plan(config, make_task(config), tmp_path / "run", devices=jax.devices()[:1])
    problem, source, state = prepared.task, prepared.task.splits["train"], prepared.fresh_state()
    training = batch_of([problem.augment(source[i], np.random.default_rng(i)) for i in range(4)])
    validation = batch_of([problem.prepare(source[i], np.random.default_rng(i)) for i in range(4)])

    def scores(state, batch):
        return problem.scores(prepared.learner.trained(state), batch)

    for function, batch in ((prepared.learner.step, training), (scores, validation)):
        exported = jax.export.export(jax.jit(function), platforms=ACCELERATORS)(state, batch)
        assert exported.platforms == ACCELERATORS


@pytest.mark.parametrize("platforms", [(), ("gpu",), ("cpu", "cpu"), ("CPU",), "cuda,tpu"])
def test_unknown_platforms_are_refused_and_the_known_ones_listed(platforms):
    with pytest.raises(ValueError, match=", ".join(PLATFORMS)):
        check_platforms(platforms)
    assert check_platforms("tpu") == ("tpu",)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("post_dae", (32, 32), "only images of 16 x 24, not 32 x 32"),
        ("cmvae", (24, 16), "only images of 16 x 24"),
        ("cxas", (4, 16), "height and width from 8 to 8192"),
        ("cxas", (16, 16, 3), "height and width"),
        ("cxas", (16.0, 16), "height and width"),
    ],
)
def test_sizes_that_a_model_does_not_accept_are_refused(name, size, words):
    with pytest.raises(ValueError, match=words):
        inference(tiny(name), image_size=size)


def test_the_default_size_is_read_from_the_card():
    model = tiny("cxas")
    model.card = dataclasses.replace(model.card, input_size=(40, 48))
    assert inference(model).inputs[0].shape == ("batch", 40, 48, 3)
    with pytest.raises(ValueError, match="at least 32 x 32 pixels, not 16 x 24"):
        inference(jaxseg.create("prob_unet", filters=(2,) * 6), image_size=SIZE)
    with pytest.raises(ValueError, match="a model from jaxseg.load"):
        inference(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))


def test_only_exported_models_are_replaced_and_only_on_request(tmp_path):
    model, path = tiny("prob_unet"), tmp_path / "model.stablehlo"
    export = {"platforms": ["cpu"], "image_size": SIZE}
    export_model(tiny("cxas"), path, **export)
    with pytest.raises(FileExistsError, match="replace the exported model with --overwrite"):
        export_model(model, path, **export)
    assert read_facts(path).model == "cxas"
    export_model(model, path, overwrite=True, **export)
    assert load_exported(path).facts.model == "prob_unet"
    (tmp_path / "only.stablehlo").write_bytes(b"mine")
    beside(tmp_path / "text.stablehlo").write_text('{"mine": 1}')
    path.write_bytes(b"mine too")
    for name in ("only", "text", "model"):
        path = tmp_path / f"{name}.stablehlo"
        before = {one: one.read_bytes() for one in (path, beside(path)) if one.exists()}
        with pytest.raises(FileExistsError, match="is not an exported model as jaxseg wrote it"):
            export_model(model, path, overwrite=True, **export)
        assert before == {one: one.read_bytes() for one in (path, beside(path)) if one.exists()}
    with pytest.raises(ValueError, match="must end in .stablehlo"):
        export_model(model, tmp_path / "model.bin", **export)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
