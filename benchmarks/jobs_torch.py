"""The originals' steps of the jobs whose sides are processes: one file after the other, eager, in float32, NCHW.

Nothing here loads JAX, which would count as PyTorch's memory and start-up.
"""

import csv
import importlib.util
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
KIT = {  # file -> model of the parity kit
    "cxas.pth": "cxas_unet_resnet50",
    "post_dae.ckpt": "dae_512",
    "cmvae.pt": "scm_lidc_in",
    "prob_unet.pt": "punet_lidc",
}
THRESHOLD = 0.5


def make_weights(path: Path) -> Path:
    """Writes random weights of the parity kit, by the file's name, as the original would."""
    import torch

    spec = importlib.util.spec_from_file_location("parity_fill", DATA / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    manifest = json.loads((DATA / "manifests" / f"{KIT[path.name]}.json").read_text())
    state = {name: torch.from_numpy(array) for name, array in fill.state_dict(manifest, 0).items()}
    if path.suffix == ".pth":
        state = {"model": {f"module.{name}": tensor for name, tensor in state.items()}}
    elif path.suffix == ".ckpt":
        state = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.0.0", "state_dict": state}
    torch.save(state, path)
    return path


def png(weights: Path, source: Path, output: Path) -> dict[str, float]:
    """Masks at the size of their X-rays, a picture a class; returns seconds by stage."""
    from benchmarks.torch_models import pipeline
    from jaxseg.vocabulary.labels import CXAS

    def write(path: Path, masks, size: tuple[int, int]) -> None:
        pipeline.write_masks(pipeline.resize_masks(masks, size), output / path.stem, CXAS)

    return _over_images(weights, source, write)


def coco(weights: Path, source: Path, output: Path) -> dict[str, float]:
    """Masks at the size of their X-rays, as run lengths in one COCO file; returns seconds by stage.

    The original encodes with pycocotools. In its place stands jaxseg's encoder, in NumPy, which writes the same bytes;
    "encode" is the part of the seconds that it takes, so that a reader can leave it out.
    """
    from benchmarks.torch_models import pipeline
    from jaxseg.masks.coco import annotation, dataset
    from jaxseg.vocabulary.labels import CXAS

    images, annotations, encoding = [], [], 0.0

    def write(path: Path, masks, size: tuple[int, int]) -> None:
        nonlocal encoding
        resized, first = pipeline.resize_masks(masks, size).numpy(), len(annotations)
        start = time.perf_counter()
        images.append({"id": len(images), "file_name": path.name})
        for k, mask in enumerate(resized):
            if mask.any():
                annotations.append(annotation(mask, annotation_id=first + k, image_id=images[-1]["id"], category_id=k))
        encoding += time.perf_counter() - start

    def finish() -> None:
        output.mkdir(parents=True)
        (output / "all.json").write_text(json.dumps(dataset(images, list(CXAS), annotations)))

    return _over_images(weights, source, write, finish) | {"encode": encoding}


def features(weights: Path, source: Path, output: Path) -> dict[str, float]:
    """Features of the masks on the network's grid in one table; returns seconds by stage.

    Every class that has pixels is measured as in measuring.py; the others have the original's -1, and boxes of 0.
    """
    from benchmarks.measuring import with_opencv

    rows = []

    def measure(path: Path, masks, size: tuple[int, int]) -> None:
        del size
        rows.append({"file": path.name} | _features(masks.numpy(), with_opencv))

    def finish() -> None:
        output.mkdir(parents=True)
        with (output / "all.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)

    return _over_images(weights, source, measure, finish)


def denoise(weights: Path, source: Path, output: Path) -> dict[str, float]:
    """Masks restored one at a time, from PNG to PNG; returns seconds by stage."""
    start = time.perf_counter()
    import cv2
    import torch

    from benchmarks.torch_models.dae import DAE

    model = DAE().eval()
    model.load_state_dict(torch.load(weights, weights_only=True)["state_dict"])
    loaded = time.perf_counter()
    output.mkdir(parents=True)
    with torch.inference_mode():
        for path in sorted(source.iterdir()):
            mask = np.asarray(Image.open(path).convert("L"), np.float32) / 255
            given = cv2.resize(mask, (512, 512), interpolation=cv2.INTER_LINEAR)
            answer = model(torch.from_numpy(given)[None, None])[0, 0].numpy()
            answer = cv2.resize(answer, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
            Image.fromarray((answer > THRESHOLD).astype(np.uint8) * 255).save(output / f"{path.stem}.png")
    return {"start": loaded - start, "images": time.perf_counter() - loaded}


SIDES = {"png": png, "json": coco, "features": features, "denoise": denoise}


def _over_images(
    weights: Path, source: Path, use: Callable, finish: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Gives every X-ray's masks, (159, 512, 512) bool, and its size to a function; returns seconds by stage."""
    start = time.perf_counter()
    import torch

    from benchmarks.torch_models import pipeline
    from benchmarks.torch_models.unet import BackboneUNet

    model = BackboneUNet().eval()
    state = torch.load(weights, weights_only=True)["model"]
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    loaded = time.perf_counter()
    for path in sorted(source.iterdir()):
        image = pipeline.read_image(path)
        _, masks = pipeline.predict(model, pipeline.preprocess(image))
        use(path, masks, image.shape[1:])
    finish()
    return {"start": loaded - start, "images": time.perf_counter() - loaded}


def _features(masks: np.ndarray, with_opencv: Callable) -> dict[str, float]:
    """The features by the names of their columns."""
    from jaxseg.vocabulary.labels import CXAS

    there = masks.any((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = with_opencv(masks[there], [name for name, one in zip(CXAS, there, strict=True) if one])
    values = {}
    for name in CXAS:
        box = found.get(f"{name}_box", (0, 0, 0, 0))
        values |= {f"{name}_{side}": value for side, value in zip(("x", "y", "width", "height"), box, strict=True)}
        values |= {f"{name}_area": found.get(f"{name}_area", 0), f"{name}_cx": found.get(f"{name}_cx", -1)}
        for feature in ("perimeter", "compactness", "convexity"):
            value = found.get(f"{name}_{feature}", 0)
            values[f"{name}_{feature}"] = value if 0 < value < math.inf else -1
    return values
