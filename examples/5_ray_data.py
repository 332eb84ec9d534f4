"""Segments X-rays with Ray Data and measures the masks: `map_batches` sends one pickled Segmenter to each worker.

Run it with `python examples/5_ray_data.py`; it needs the package `ray[data]`. The X-rays are phantoms, and the model is
not trained: `jaxseg.load("cxas")` in its place gives numbers that mean something.
"""

import numpy as np
import ray

import jaxseg
from jaxseg.datasets import phantom

COUNT, SIZE = 12, 64


class Areas:
    """Returns for a batch of images the expected area of each class in pixels; Ray makes one in each worker."""

    def __init__(self, segmenter: jaxseg.Segmenter):
        self.segmenter = segmenter

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        prepared = [self.segmenter.prepare(image) for image in batch["image"]]
        found = self.segmenter.predict(prepared)
        areas = np.array([result.probabilities.sum((1, 2)) for result in found])
        return {"name": batch["name"]} | dict(zip(self.segmenter.names, areas.T, strict=True))


def main() -> None:
    model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
    segmenter = jaxseg.Segmenter(model, batch_size=4, probabilities=True)
    items = [{"name": f"phantom {seed}", "image": phantom.draw(seed, SIZE)[0]} for seed in range(COUNT)]

    # address="auto" in place of num_cpus connects to a cluster. Workers are processes that import jaxseg.
    ray.init(num_cpus=2, include_dashboard=False)
    dataset = ray.data.from_items(items)
    workers = ray.data.ActorPoolStrategy(size=1)
    measured = dataset.map_batches(Areas, fn_constructor_args=(segmenter,), batch_size=4, compute=workers).take_all()
    ray.shutdown()

    measured.sort(key=lambda row: int(row["name"].split()[1]))
    print("name", *segmenter.names, sep="\t")
    for row in measured:
        print(row["name"], *(f"{row[name]:.1f}" for name in segmenter.names), sep="\t")

    # The workers found what this process finds.
    for item, row in zip(items, measured, strict=True):
        here = segmenter(item["image"]).probabilities.sum((1, 2))
        assert np.allclose([row[name] for name in segmenter.names], here), item["name"]


if __name__ == "__main__":
    main()
