"""A segmenter that uses only numpy, folder runs with it, and a program that runs them in processes to be killed."""

import dataclasses
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg.anatomy import products
from jaxseg.anatomy.products import segment_files
from jaxseg.anatomy.segment import Prepared
from jaxseg.card import Card
from jaxseg.folder_runs.account import Run, begin, conclude
from jaxseg.folder_runs.inputs import find_images, plan
from jaxseg.images.preprocess import cxas
from jaxseg.images.read import read_picture
from jaxseg.masks import cohort
from jaxseg.masks.segmentation import Segmentation

HANGS_S = 60  # a run that takes longer is ended


@dataclasses.dataclass
class FakeSegmenter:
    """A segmenter whose masks mark pixels brighter than fixed values, so that different images have different masks."""

    batch_size: int = 1
    seconds: float = 0.0
    prepared: list[Path] = dataclasses.field(default_factory=list)
    names: tuple[str, ...] = ("bright", "brighter", "brightest")

    @property
    def card(self) -> Card:
        return Card("cxas", "unet", (), self.names, "cxas", (32, 32))

    @property
    def stages(self) -> tuple:
        return self.predict, None

    def prepare(self, path: Path) -> Prepared:
        self.prepared.append(path)
        picture = read_picture(path)
        return Prepared(cxas(picture, (32, 32)), picture.size, picture.notes)

    def predict(self, images: list[Prepared]) -> list[Segmentation]:
        time.sleep(self.seconds)
        cuts = [-1.0, 0.0, 1.0]
        bits = [np.stack([np.packbits(image.x[:, :, 0] > cut, axis=1) for cut in cuts]) for image in images]
        return [
            Segmentation(self.names, (0, 1, 2), image.size, mask, None, image.notes)
            for image, mask in zip(images, bits, strict=True)
        ]


def draw(path: Path, *, size=(20, 30), seed: int | None = None) -> Path:
    """Writes a small image of noise, a different one for every name or seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int(hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8], 16) if seed is None else seed
    noise = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    Image.fromarray(noise).save(path, format="PNG")
    return path


def start(source, output, output_type="npy", *, segmenter=None, settings=None, recursive=False, overwrite=False):
    """Plans a run; returns it with its jobs and the generator of outcomes."""
    source, output = Path(source), Path(output)
    sources = find_images(source, recursive=recursive, output=output)
    jobs = plan(sources, source, output)
    segmenter = segmenter or FakeSegmenter()
    if output_type in cohort.TYPES:
        product = products.joint_masks(output_type, dict(enumerate(segmenter.names)), output, None)
    else:
        product = products.masks(output_type, segmenter.card.class_names, "cxas")
    run = Run(output, (product,), {"threshold": 0.5} if settings is None else settings)
    todo = begin(jobs, run, overwrite=overwrite)
    return run, jobs, segment_files(todo, segmenter, run)


def finish(*args, **options):
    """Completes a run; returns it with {name of the source: outcome}."""
    run, _, outcomes = start(*args, **options)
    done = {outcome.item.source.name: outcome for outcome in outcomes}
    for product in run.products:
        if product.joint is not None:
            product.joint.finish()
    conclude(run)
    return run, done


def summary(output: Path) -> dict:
    return json.loads((output / "summary.json").read_text())


def statuses(output: Path) -> dict[str, str]:
    return {key: entry["status"] for key, entry in summary(output)["files"].items()}


def tree(path: Path) -> dict[str, str]:
    """Returns every file below a folder except the summary, with the digest of its content."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name != "summary.json")
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def serve() -> None:
    """Runs a new process for every line [source, output, type, seconds, options]; prints its id and exit status."""
    for line in sys.stdin:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the new process can catch it
        process = os.fork()
        if process == 0:
            signal.alarm(HANGS_S)
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                source, output, output_type, seconds, options = json.loads(line)
                finish(source, output, output_type, segmenter=FakeSegmenter(seconds=seconds), **options)
            except KeyboardInterrupt:
                os._exit(130)
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        _answer(process)
        _answer(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
