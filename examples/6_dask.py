"""Segments X-rays with Dask and measures the masks: a bag of files, in two processes that get one pickled Segmenter.

Run it with `python examples/6_dask.py`; it needs the package `dask[bag]`. The X-rays are phantoms, and the model is not
trained: `jaxseg.load("cxas")` in its place gives numbers that mean something.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import dask
import dask.bag
import numpy as np
from PIL import Image

import jaxseg
from jaxseg.datasets import phantom

COUNT, SIZE = 12, 64


def areas(paths: Iterable[Path], segmenter: jaxseg.Segmenter) -> list[tuple[str, list[float]]]:
    """Returns the name of each image and the expected area of each class in pixels, for each part of the bag."""
    return [(path.name, segmenter(path).probabilities.sum((1, 2)).tolist()) for path in paths]


def main() -> None:
    model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
    segmenter = jaxseg.Segmenter(model, probabilities=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"phantom{seed:02}.png") for seed in range(COUNT)]
        for seed, path in enumerate(paths):
            Image.fromarray(phantom.draw(seed, SIZE)[0]).save(path)

        # With dask.distributed, `Client(ADDRESS)` in place of the setting computes on a cluster.
        bag = dask.bag.from_sequence(paths, npartitions=2)
        with dask.config.set(scheduler="processes", num_workers=2):
            measured = bag.map_partitions(areas, dask.delayed(segmenter)).compute()

        print("name", *segmenter.names, sep="\t")
        for name, found in measured:
            print(name, *(f"{area:.1f}" for area in found), sep="\t")

        # The processes found what this one finds.
        for (name, found), (_, here) in zip(measured, areas(paths, segmenter), strict=True):
            assert np.allclose(found, here), name


if __name__ == "__main__":
    main()
