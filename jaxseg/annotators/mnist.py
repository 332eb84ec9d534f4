"""Builds a data set with noisy annotators from MNIST: digits as the truth, and three annotators with typical errors.

The layout is that of learn-vae-noisy-label, which `jaxseg.annotators.data.mnist_slices` reads:
`{train,validate,test}/{Gaussian,GT,Over,Under,Wrong}/{i}_{folder}.tif`. The set also has quality.csv, with one row per
digit, and summary.json. The masks are computed here: they match the published ones in their Dice, not pixel by pixel.

Source: LeCun et al. 1998, doi 10.1109/5.726791; rCampSemp/learn-vae-noisy-label.
"""

import csv
import dataclasses
import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from jaxseg.datasets.dataset_summary import (
    SUMMARY,
    PreparedSet,
    Progress,
    check_replaceable,
    watched,
    write_summary,
)
from jaxseg.datasets.degrade import degrade
from jaxseg.files import atomic_file, atomic_folder
from jaxseg.images.tiff import need_tifffile, write_tiff
from jaxseg.nn.metrics import dice

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FOLDERS = ("Gaussian", "GT", "Over", "Under", "Wrong")
MAX_ITEMS, MAX_SIDE, MAX_BYTES = 2**20, 256, 2**28  # limits for an idx file
# Mean and standard deviation of each annotator's Dice with the truth, as in the published set.
LEVELS = {"Over": (0.75, 0.04), "Under": (0.48, 0.15), "Wrong": (0.44, 0.10)}
COLUMNS = ("split", "number", "digit", "source_index", "gt_pixels", "over_dice", "under_dice", "wrong_dice")

_MADE_BY = "prepare mnist"
_LIMITS = {"Over": (0.6, 0.9), "Under": (0.05, 0.85), "Wrong": (0.2, 0.7)}  # smallest and largest Dice of one mask
_TRIES = 24


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a set, as summary.json keeps them.

    Attributes:
      train, validate, test: numbers of digits. The digits of the first two are sampled without replacement from MNIST's
        60,000 training images, those of the last from its 10,000 test images.
      noise: standard deviation of the Gaussian noise on images in [0, 1], which are clipped afterwards. With 0.36 the
        background has the mean and the standard deviation of the published images.
      seed: random seed of the whole set, at least 0.

    Raises:
      ValueError: a value is out of range.
    """

    train: int = 1000
    validate: int = 200
    test: int = 200
    noise: float = 0.36
    seed: int = 0

    def __post_init__(self):
        if min(self.train, self.validate, self.test) < 0 or self.train < 1:
            given = f"{self.train}, {self.validate} and {self.test}"
            raise ValueError(f"train must be at least 1, validate and test at least 0, got {given}")
        if not 0 <= self.noise <= 10:
            raise ValueError(f"noise must be in [0, 10], got {self.noise}")
        if self.seed < 0:
            raise ValueError(f"the seed must be at least 0, got {self.seed}")


def prepare_mnist(
    raw: str | Path,
    output: str | Path,
    *,
    train: int = 1000,
    validate: int = 200,
    test: int = 200,
    noise: float = 0.36,
    seed: int = 0,
    progress: Progress | None = None,
) -> PreparedSet:
    """Builds a training set with noisy annotators from MNIST. The same files and options give the same set.

    An interrupted call leaves nothing.

    Args:
      raw: folder with the four idx files of MNIST, compressed with gzip (`.gz`) or not.
      output: folder of the set. A set that this function made is replaced; other content is an error.
      train: number of digits for training, sampled from MNIST's 60,000 training images.
      validate: number of digits for validation, sampled from the same images, but other ones.
      test: number of digits for testing, sampled from MNIST's 10,000 test images.
      noise: standard deviation of the Gaussian noise on images in [0, 1], see `Settings`.
      seed: random seed of the whole set, at least 0.
      progress: called as (number of finished digits, their total, text about the last), first with 0 and "".

    Raises:
      ValueError: an option is out of range, a file is missing, damaged or inconsistent, MNIST has too few digits, or
        the output folder holds something else.
      OSError: a file cannot be read or written.
    """
    need_tifffile()  # the set is written as TIFF
    raw, output = Path(raw), Path(output)
    settings = Settings(train, validate, test, noise, seed)
    check_replaceable(output, _MADE_BY)
    sets = read_mnist(raw)
    chosen = _chosen({name: len(images) for name, (images, _) in sets.items()}, settings)
    with atomic_folder(output) as folder:
        digits = _write_digits(folder, sets, chosen, settings)
        rows = list(watched(digits, train + validate + test, progress, lambda row: f"{row[0]} {row[1]}"))
        _write_tables(folder, settings, rows)
    return PreparedSet(output / SUMMARY, len(rows))


def _write_digits(
    folder: Path,
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]],
    chosen: Mapping[str, tuple[str, np.ndarray]],
    settings: Settings,
) -> Iterator[tuple]:
    """Writes all digits to a folder, and yields the row of quality.csv of each."""
    for split, (source, indices) in chosen.items():
        for name in FOLDERS:
            (folder / split / name).mkdir(parents=True)
        images, labels = sets[source]
        for number, index in enumerate(indices.tolist()):
            rng = np.random.default_rng([settings.seed, zlib.crc32(source.encode()), index])
            made = annotate(images[index], rng, noise=settings.noise)
            for name in FOLDERS:
                write_tiff(folder / split / name / f"{number}_{name}.tif", made[name])
            yield _row(split, number, int(labels[index]), index, made)


def read_mnist(raw: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads the four files of MNIST.

    Args:
      raw: folder with the files.

    Returns:
      A dict of "train" and "t10k": images, (N, H, W) uint8, and labels, (N,) uint8 from 0 to 9.

    Raises:
      ValueError: a file is missing or damaged, or images and labels do not fit.
      OSError: a file cannot be read.
    """
    paths = {name: next((p for p in (raw / name, raw / f"{name}.gz") if p.is_file()), None) for name in IDX_FILES}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise ValueError(f"{raw}: has no {', no '.join(missing)} (with or without .gz): MNIST consists of four files")
    found = {}
    for source in ("train", "t10k"):
        images = read_idx(paths[f"{source}-images-idx3-ubyte"], axes=3)
        labels = read_idx(paths[f"{source}-labels-idx1-ubyte"], axes=1)
        if len(images) != len(labels) or (labels > 9).any():
            values = f"{len(images)} images, {len(labels)} labels up to {labels.max()}"
            raise ValueError(f"{raw}: the files of {source} do not fit each other: {values}")
        found[source] = images, labels
    return found


def read_idx(path: Path, *, axes: int) -> np.ndarray:
    """Reads an idx file of bytes, compressed with gzip or not; never decompresses more than its header announces.

    Args:
      path: the file. Compression is detected from its first bytes, not from its name.
      axes: the number of axes that the array must have.

    Returns:
      The array, uint8.

    Raises:
      ValueError: the file is not an idx file, too large, cut short, or longer than its header says.
      OSError: the file cannot be read.
    """
    with path.open("rb") as start:
        packed = start.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4 + 4 * axes)
            if head[:4] != bytes([0, 0, 8, axes]) or len(head) < 4 + 4 * axes:
                raise ValueError(f"{path.name}: not an idx file of bytes with {axes} axes")
            shape = tuple(int(side) for side in np.frombuffer(head, ">u4", offset=4))
            if not 1 <= shape[0] <= MAX_ITEMS or any(not 1 <= side <= MAX_SIDE for side in shape[1:]):
                raise ValueError(f"{path.name}: holds {shape}, more than can be read")
            count = math.prod(shape)
            if count > MAX_BYTES or (not packed and path.stat().st_size - len(head) != count):
                raise ValueError(f"{path.name}: its header announces {shape}, and the rest of it has another length")
            content = file.read(count + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path.name}: damaged ({error})") from None
    if len(content) != count:
        raise ValueError(f"{path.name}: its header announces {shape}, and the rest of the file has another length")
    return np.frombuffer(content, np.uint8).reshape(shape)


def annotate(digit: np.ndarray, rng: np.random.Generator, *, noise: float) -> dict[str, np.ndarray]:
    """Returns a digit as a noisy image, its mask, and the masks of three annotators.

    The truth is every pixel with ink. "Over" is the dilated truth, "Under" the eroded truth, and "Wrong" the digit
    rotated, sheared, shifted and dilated, each with a Dice that is sampled from `LEVELS`.

    Args:
      digit: (H, W) uint8.
      rng: the random generator.
      noise: standard deviation of the noise on images in [0, 1].

    Returns:
      A dict: "Gaussian", (H, W, 3) float64 in [0, 1] with multiples of 1/255; and "GT", "Over", "Under" and "Wrong",
      each (H, W) uint8 of 0 and 1.

    Raises:
      ValueError: the digit has no ink.
    """
    truth = digit > 0
    if not truth.any():
        raise ValueError("a digit without ink has no mask; the images are damaged")
    wanted = {name: float(np.clip(rng.normal(*LEVELS[name]), *_LIMITS[name])) for name in LEVELS}
    masks = {
        "GT": truth,
        "Over": degrade(rng, truth, wanted["Over"], ("dilate",))[0] | truth,
        "Under": degrade(rng, truth, wanted["Under"], ("erode",))[0] & truth,
        "Wrong": _misread(rng, truth, wanted["Wrong"]),
    }
    grey = np.clip(digit / 255 + noise * rng.standard_normal(digit.shape), 0, 1)
    image = np.rint(grey * 255) / 255
    return {"Gaussian": np.repeat(image[:, :, None], 3, 2)} | {
        name: mask.astype(np.uint8) for name, mask in masks.items()
    }


def _misread(rng: np.random.Generator, truth: np.ndarray, wanted: float) -> np.ndarray:
    """Returns the distorted mask whose Dice with the truth is nearest to `wanted`."""
    move = _distortion(rng, truth)
    best, apart = truth, np.inf
    for strength in np.linspace(0.1, 1, _TRIES):
        found = move(float(strength))
        distance = abs(float(dice(found, truth)) - wanted)
        if found.any() and distance < apart:
            best, apart = found, distance
    return best


def _distortion(rng: np.random.Generator, truth: np.ndarray) -> Callable[[float], np.ndarray]:
    """Returns a random distortion of a mask, as a function of its strength in (0, 1]."""
    angle, shear = rng.choice([-1, 1]) * rng.uniform(0.4, 1.0), rng.uniform(-0.5, 0.5)
    direction, width = rng.normal(size=2), rng.uniform(1.0, 2.0)
    shift = rng.uniform(7, 12) * direction / np.linalg.norm(direction)  # pixels
    centre = np.array(ndimage.center_of_mass(truth))

    def distorted(strength: float) -> np.ndarray:
        cos, sin = np.cos(strength * angle), np.sin(strength * angle)
        matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, strength * shear], [0, 1]])
        offset = centre - matrix @ (centre + strength * shift)
        turned = ndimage.affine_transform(truth.astype(np.float32), matrix, offset, order=1) > 0.5
        return ndimage.distance_transform_edt(~turned) <= width if turned.any() else turned

    return distorted


def _chosen(available: dict[str, int], settings: Settings) -> dict[str, tuple[str, np.ndarray]]:
    """Returns for each split its source and the indices of its digits in that source."""
    rng = np.random.default_rng(settings.seed)
    wanted = {"train": settings.train + settings.validate, "t10k": settings.test}
    for source, count in wanted.items():
        if count > available[source]:
            raise ValueError(f"{source} has {available[source]} digits, but {count} were asked for; ask for fewer")
    order = {source: rng.permutation(available[source])[:count] for source, count in wanted.items()}
    splits = {
        "train": ("train", order["train"][: settings.train]),
        "validate": ("train", order["train"][settings.train :]),
        "test": ("t10k", order["t10k"]),
    }
    return {split: found for split, found in splits.items() if len(found[1])}


def _row(split: str, number: int, digit: int, index: int, made: dict[str, np.ndarray]) -> tuple:
    truth = made["GT"] > 0
    scores = (round(float(dice(made[name] > 0, truth)), 4) for name in LEVELS)
    return (split, number, digit, index, int(truth.sum()), *scores)


def _write_tables(folder: Path, settings: Settings, rows: list[tuple]) -> None:
    with atomic_file(folder / "quality.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    splits = sorted({row[0] for row in rows})
    means = {
        split: dict(zip(LEVELS, np.mean([r[5:] for r in rows if r[0] == split], 0).round(4).tolist(), strict=True))
        for split in splits
    }
    content = {
        "settings": dataclasses.asdict(settings),
        "digits": {split: sum(row[0] == split for row in rows) for split in splits},
        "mean_dice": means,
    }
    write_summary(folder, _MADE_BY, content)
