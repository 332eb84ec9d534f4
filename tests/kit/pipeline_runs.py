"""Small pipelines on phantoms, and a program that runs one in processes that kill themselves.

The network is the plain one, with masks that are neither empty nor full; the mask model returns the inverse of a mask.
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("right lung", "left lung", "heart")
SIZE = (64, 64)
SECTIONS = {
    "segment": {"classes": "right lung, left lung, heart"},
    "restore": {"classes": "right lung, left lung"},
    "confidence": {"shape_check": True, "review_below": 0.6},
    "measure": {"features": "area"},
    "compare": {},
    "report": {"features": "area"},
}


def write_phantoms(folder: Path, count: int = 3, size: int = 96) -> Path:
    """Writes phantoms in `images`, and their true masks, one PNG per class, in `truth`; returns the folder."""
    from jaxseg.datasets import phantom

    for i in range(count):
        image, masks = phantom.draw(i, size)
        own = folder / "truth" / f"p{i}"
        for place in (folder / "images", own):
            place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "images" / f"p{i}.png")
        for name in NAMES:
            Image.fromarray(masks[phantom.CLASSES.index(name)]).save(own / f"{name}.png")
    return folder


def write_models(folder: Path) -> None:
    """Writes the model directories `network` and `shapes`; the plain network must be in use."""
    import jax
    from flax import nnx

    import jaxseg
    from jaxseg.datasets import phantom
    from jaxseg.images.preprocess import cxas
    from jaxseg.images.read import from_array
    from jaxseg.weights.store import save_model

    model = jaxseg.create("cxas", class_names=NAMES, backbone="resnet18", width=4)
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True, deterministic=True))
    x = cxas(from_array(phantom.draw(0, 96)[0]), SIZE)[None]
    logits = np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x))
    model.classify.bias.set_value(model.classify.bias[...] - np.median(logits, axis=(0, 1, 2)))
    model.card = dataclasses.replace(model.card, input_size=SIZE)
    save_model(model, folder / "network", model.card)
    tiny = {"features": (4, 6), "decoder_features": (4, 4), "intermediate": (8, 16), "strides": (2, 2)}
    shapes = jaxseg.create("post_dae", image_size=(32, 32), **tiny)
    save_model(shapes, folder / "shapes", shapes.card)


def sections(folder: Path, **changed: dict | None) -> dict:
    """Returns the sections of a configuration, with some settings changed; None removes a section."""
    found = {name: dict(values) for name, values in SECTIONS.items()}
    found["segment"]["weights"], found["restore"]["weights"] = str(folder / "network"), str(folder / "shapes")
    found["compare"]["truth"] = str(folder / "truth")
    for name, values in changed.items():
        found[name] = None if values is None else found[name] | values
    return {name: values for name, values in found.items() if values is not None}


def run(folder: Path, output: Path, *, overwrite: bool = False, recursive: bool = False, watch=None, **changed):
    """Plans and runs a pipeline on the phantoms of a folder."""
    import jax

    from jaxseg.pipeline.config import make_config
    from jaxseg.pipeline.plan import make_plan
    from jaxseg.pipeline.run import run_pipeline

    config = make_config(sections(folder, **changed), "pipeline.yaml")
    plan = make_plan(config, folder / "images", output, recursive=recursive, devices=jax.devices()[:1])
    return run_pipeline(plan, overwrite=overwrite, **({} if watch is None else {"watch": watch}))


def invert(model, masks):
    """Takes the place of the network of mask models."""
    import jax.numpy as jnp

    return 1 - jnp.asarray(masks)


def content(output: Path) -> dict[str, bytes]:
    """Returns the results of a pipeline that do not depend on when they were made, by their path."""
    kinds = (".png", ".csv")
    files = [path for path in sorted(output.rglob("*")) if path.suffix in kinds and not path.name.startswith(".")]
    found = {path.relative_to(output).as_posix(): path.read_bytes() for path in files}
    record = json.loads((output / "pipeline.json").read_text())
    return found | {"summary": json.dumps(record["summary"]).encode()}


@contextlib.contextmanager
def killed_at(count: int):
    """Makes this process kill itself with SIGKILL when it appends a line to a journal for the `count`-th time."""
    from jaxseg import journal

    usual, calls = journal.append, []

    def append(*arguments):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(*arguments)

    journal.append = append
    try:
        yield
    finally:
        journal.append = usual


def serve() -> None:
    """Runs a pipeline in a new process for every line [folder, output, count, overwrite, changes]; prints its exit."""
    from plain_network import PLACE

    import jaxseg.pipeline.run  # noqa: F401
    from jaxseg.post_dae import denoise
    from jaxseg.registry import MODELS

    MODELS |= PLACE
    denoise._forward = invert
    for line in sys.stdin:
        folder, output, count, overwrite, changed = json.loads(line)
        process = os.fork()
        if process == 0:
            code = 70
            try:
                with killed_at(count):
                    run(Path(folder), Path(output), overwrite=overwrite, **changed)
                code = 0
            finally:
                os._exit(code)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
