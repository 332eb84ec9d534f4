"""The jobs that end_to_end.py measures: what each side runs, and the original's steps in PyTorch.

A job of `COMMANDS` works on a folder of files. A job of `FUNCTIONS` is a function on each side, which can be called
many times in one process and returns a dict of arrays. The PyTorch side takes one file after the other: eager, NCHW,
float32. This module imports neither JAX nor PyTorch, because the memory and the start-up of the one would count as
those of the other.
"""

import csv
import dataclasses
import functools
import importlib.util
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
KIT = {  # file of weights -> model of the parity kit
    "cxas.pth": "cxas_unet_resnet50",
    "post_dae.ckpt": "dae_512",
    "cmvae.pt": "scm_lidc_in",
    "prob_unet.pt": "punet_lidc",
    "segae.pt": "segae_resnet50",
}
THRESHOLD = 0.5
SAMPLES, LATENT = 1000, 6
FEATURES = "area,centroid,box,perimeter,compactness,convexity"
MAX_SAMPLES_APART = 1e-3  # share of the pixels of the two sides' samples that may differ


@dataclasses.dataclass(frozen=True)
class Command:
    """A job whose sides are processes: a command of jaxseg, and the original's steps.

    Attributes:
      what: description, with a place for the number of files.
      item: what the seconds are per.
      weights: the file of `KIT` that both sides load, unless the user names one.
      words: the command of jaxseg, without its files.
      torch: the original's steps: (weights, source, output) -> seconds by stage.
      reports: whether the command writes its seconds with --report.
    """

    what: str
    item: str
    weights: str
    words: tuple[str, ...]
    torch: Callable[[Path, Path, Path], dict[str, float]]
    reports: bool = True


@dataclasses.dataclass(frozen=True)
class Job:
    """A job whose sides are functions.

    Attributes:
      facts: description of the job for the JSON file.
      makers: name of a side -> function that prepares the side and returns a function that runs the job once.
      compare: maps the first result of each side to how far they are apart; raises ValueError if that is too far.
      keeps_memory: whether jaxseg keeps freed memory, as the command of this job does.
      keeps_programs: whether jaxseg keeps compiled programs, as the command of this job does.
    """

    facts: dict
    makers: dict[str, Callable[[], Callable[[], dict]]]
    compare: Callable[[dict], dict] = lambda first: {}
    keeps_memory: bool = False
    keeps_programs: bool = False


def make_weights(path: Path) -> Path:
    """Writes random weights of the parity kit, in the format of the original that `path.name` belongs to."""
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
    """Writes masks at the size of their X-rays, one PNG per class; returns the seconds by stage."""
    from benchmarks.torch_models import pipeline
    from jaxseg.vocabulary.labels import CXAS

    def write(path: Path, masks, size: tuple[int, int]) -> None:
        pipeline.write_masks(pipeline.resize_masks(masks, size), output / path.stem, CXAS)

    return _over_images(weights, source, write)


def coco(weights: Path, source: Path, output: Path) -> dict[str, float]:
    """Writes masks at the size of their X-rays as run lengths in one COCO file; returns the seconds by stage.

    The original encodes with pycocotools. jaxseg's encoder, in NumPy, replaces it here and writes the same bytes.
    "encode" is the part of the seconds that the encoder takes, so that a reader can subtract it.
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
    """Measures the masks on the network's grid and writes one table; returns the seconds by stage.

    Every class that has pixels is measured as in measuring.py. The other classes get the original's -1, and boxes of 0.
    """
    from benchmarks.measuring import with_opencv

    rows = []

    def measure(path: Path, masks, size: tuple[int, int]) -> None:
        del size
        rows.append({"file": path.name} | _features(masks.numpy(), with_opencv))

    def finish() -> None:
        output.mkdir(parents=True)
        with (output / "all.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    return _over_images(weights, source, measure, finish)


def denoise(weights: Path, source: Path, output: Path) -> dict[str, float]:
    """Restores masks one at a time, from PNG to PNG; returns the seconds by stage."""
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
            resized = cv2.resize(mask, (512, 512), interpolation=cv2.INTER_LINEAR)
            answer = model(torch.from_numpy(resized)[None, None])[0, 0].numpy()
            answer = cv2.resize(answer, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
            Image.fromarray((answer > THRESHOLD).astype(np.uint8) * 255).save(output / f"{path.stem}.png")
    return {"start": loaded - start, "images": time.perf_counter() - loaded}


def _over_images(
    weights: Path, source: Path, use: Callable, finish: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Passes each X-ray's path, masks (159, 512, 512) bool and size to a function; returns the seconds by stage."""
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
    """Returns the features of masks (159, H, W) bool by the names of their columns."""
    from jaxseg.vocabulary.labels import CXAS

    present = masks.any((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = with_opencv(masks[present], [name for name, one in zip(CXAS, present, strict=True) if one])
    values = {}
    for name in CXAS:
        box = found.get(f"{name}_box", (0, 0, 0, 0))
        values |= {f"{name}_{side}": value for side, value in zip(("x", "y", "width", "height"), box, strict=True)}
        values |= {f"{name}_area": found.get(f"{name}_area", 0), f"{name}_cx": found.get(f"{name}_cx", -1)}
        for feature in ("perimeter", "compactness", "convexity"):
            value = found.get(f"{name}_{feature}", 0)
            values[f"{name}_{feature}"] = value if 0 < value < math.inf else -1
    return values


COMMANDS = {
    "png": Command("{} X-rays to PNG masks, 159 classes", "image", "cxas.pth", ("segment", "-ot", "png"), png),
    "json": Command("{} X-rays to COCO JSON, 159 classes", "image", "cxas.pth", ("segment", "-ot", "json"), coco),
    "features": Command(
        "{} X-rays to six features of 159 classes",
        "image",
        "cxas.pth",
        ("extract", "-f", FEATURES, "--original-values"),
        features,
    ),
    "denoise": Command(
        "{} lung masks of 512 x 512 restored, PNG to PNG", "mask", "post_dae.ckpt", ("denoise",), denoise, False
    ),
}


def score(data: Path, folder: Path, *, quick: bool) -> Job:
    """Returns the job that predicts the Dice of the organs of a CT."""
    from benchmarks import score as scoring

    case = scoring.read_case(data / "ct" / "totalseg" / "s0001", 3 if quick else None)
    embeddings, weights = data / "segae" / "label_embedding.npz", folder / "segae.pt"
    if not weights.exists():
        make_weights(weights)
    makers = {
        "jaxseg": lambda: scoring.jax_side(case, weights, embeddings),
        "torch": lambda: scoring.torch_side(case, weights, embeddings),
    }
    facts = {"what": "predicted Dice of the organs of one CT, ten slices each", "item": "CT", "organs": len(case[1])}
    facts |= {"slices": sum(len(scoring.slice_indices(mask)) for mask, _ in case[1].values())}
    facts |= {"ct": list(case[0].shape), "note": "PyTorch's process also loads JAX, with the reader of text embeddings"}

    def compare(first: dict[str, dict]) -> dict[str, float]:
        return {"largest_difference": scoring.compare(first["jaxseg"], first["torch"])}

    return Job(facts, makers, compare, keeps_memory=True)


def epoch(network: str, data: Path, folder: Path, *, quick: bool) -> Job:
    """Returns the job that trains an epoch on LIDC, as in annotators.py."""
    from benchmarks.epochs import BATCH, jaxseg_epochs, torch_epochs

    root = first_slices(data / "lidc", folder / "lidc", 20) if quick else data / "lidc"
    makers = {"jaxseg": lambda: jaxseg_epochs(network, root), "torch": lambda: torch_epochs(network, root)}
    facts = {"what": f"one epoch of training on LIDC, {network}, batches of {BATCH}", "item": "epoch"}
    facts |= {"slices": len(list((root / "train" / "scans").iterdir()))}
    return Job(facts, makers)


def samples(network: str, data: Path, folder: Path, *, quick: bool) -> Job:
    """Returns the job that samples masks of one image: jaxseg's sampler against PyTorch.

    PyTorch computes once what all samples share, as jaxseg does. It was not verified that the originals' scripts do.
    """
    count, weights = 50 if quick else SAMPLES, folder / f"{network}.pt"
    path = sorted((data / "lidc" / "validate" / "scans").iterdir())[0]
    if not weights.exists():
        make_weights(weights)
    passes = functools.partial(forward_passes, network, weights, path, count)
    makers = {"jaxseg": functools.partial(sampler, weights, path, count), "torch": passes}

    def compare(first: dict[str, np.ndarray]) -> dict[str, float]:
        import jax

        from jaxseg.annotators.losses import sample_noise

        noise = np.asarray(sample_noise(jax.random.key(0), count, LATENT))
        ours = first["jaxseg"]["masks"]
        apart = float((passes(noise=noise)()["masks"] != ours).mean())
        if apart > MAX_SAMPLES_APART:
            raise ValueError(f"from the same noise, {apart:.2%} of the pixels of the two sides' masks differ")
        return {"pixels_apart": apart, "foreground": float(ours.mean())}

    what = f"{count:,} sampled masks of one LIDC image, 64 x 64, {network}"
    return Job({"what": what, "item": f"{count:,} masks"}, makers, compare, keeps_programs=True)


FUNCTIONS = {  # row -> (data, folder, *, quick) -> Job
    "score": score,
    "epoch_cmvae": functools.partial(epoch, "cmvae"),
    "epoch_prob_unet": functools.partial(epoch, "prob_unet"),
    "samples_cmvae": functools.partial(samples, "cmvae"),
    "samples_prob_unet": functools.partial(samples, "prob_unet"),
}


def sampler(weights: Path, path: Path, count: int) -> Callable[[], dict[str, np.ndarray]]:
    """Returns a function that samples "masks" (S, H, W) uint8 with jaxseg."""
    import jaxseg
    from jaxseg.annotators.images import read_image

    sampling, image = jaxseg.Sampler(jaxseg.load(weights)), read_image(path)
    return lambda: {"masks": jaxseg.sample(image, sampling, count, 0).masks}


def forward_passes(
    network: str, weights: Path, path: Path, count: int, noise: np.ndarray | None = None
) -> Callable[[], dict[str, np.ndarray]]:
    """Returns a function that samples "masks" (S, H, W) uint8 with PyTorch, one after the other.

    Args:
      network: "cmvae" or "prob_unet".
      weights: its state dict.
      path: a TIFF file.
      count: S.
      noise: (S, Z) float32; None: sampled in every call.
    """
    import tifffile
    import torch

    from benchmarks.torch_models import cmvae, prob_unet

    model = cmvae.CMVAE(1, 64, 24, 3, 2) if network == "cmvae" else prob_unet.ProbUNet()
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    image = torch.from_numpy(tifffile.imread(path).astype(np.float32))[None]

    def shared():
        return model(image)[0] if network == "cmvae" else (model.prior(image), model.unet(image))

    def finish(known, z):
        if network == "cmvae":
            return cmvae.noisy_logits(known, model.cm_network.decode(z)).argmax(1)
        prior, maps = known
        return model.fcomb(maps, prob_unet.latent_vectors(prior, z))[:, 0] > 0

    @torch.inference_mode()
    def run() -> dict[str, np.ndarray]:
        vectors = torch.randn(count, LATENT) if noise is None else torch.tensor(noise)
        once = shared()
        masks = [finish(once, z[None])[0].numpy().astype(np.uint8) for z in vectors]
        return {"masks": np.stack(masks)}

    return run


def first_slices(source: Path, folder: Path, count: int) -> Path:
    """Copies the first slices of each part of LIDC unless they are already there, and returns the new folder."""
    if folder.exists():
        return folder
    for part in ("train", "validate"):
        for path in sorted((source / part / "scans").iterdir())[:count]:
            for kind in ("scans", "masks/GT", "masks/annots"):
                (folder / part / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(source / part / kind / path.name, folder / part / kind)
    return folder
