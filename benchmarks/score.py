"""The predicted Dice of the organs of a CT: what end_to_end.py's job `score` runs on each side.

The network is the published one (ResNet-50, 256 px), and ten slices of every mask are scored. The PyTorch side takes
slice by slice, as published: it crops a slice, resizes it with Pillow, and predicts a batch of one. Both sides start
from volumes in memory.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, SLICES, MARGIN = 256, 10, 20
LOW, HIGH = -200, 200  # HU
SHIFT, CT_SCALE, MASK_SCALE = 0.5, 0.25, 0.5
TOLERANCE = 1e-4

Case = tuple[np.ndarray, dict[str, tuple[np.ndarray, int]]]  # a CT; organ name -> mask and class
Side = Callable[[], dict[str, float]]


def read_case(folder: Path, most: int | None) -> Case:
    """Returns a CT and its masks that are not empty and whose organ has a class, at most `most` of them."""
    from jaxseg.vocabulary import organs
    from jaxseg.volumes.pair import check_ct, check_mask, check_pair
    from jaxseg.volumes.read import read_volume, stem

    ct = read_volume(folder / "ct.nii.gz")
    check_ct(ct)
    found = {}
    for path in sorted((folder / "segmentations").iterdir()):
        name = stem(path)
        try:
            organ = organs.find(name)
        except ValueError:
            continue  # the DAP-Atlas has no such class
        mask = read_volume(path)
        check_pair(ct, mask)
        if mask.array.any():
            found[name] = check_mask(mask).array, organ.id
        if len(found) == most:
            break
    if not found:
        raise ValueError(f"{folder / 'segmentations'} holds no mask of an organ that has a class; give another case")
    return ct.array, found


def jax_side(case: Case, weights: Path, embeddings: Path) -> Side:
    """Returns a function that scores all organs with jaxseg: full batches over slices and organs, crops in threads."""
    import jaxseg
    from jaxseg.segae.score import Request, Scorer
    from jaxseg.vocabulary import organs

    scorer = Scorer(jaxseg.load(weights, embeddings=embeddings), slices=SLICES)
    ct, masks = case

    def run() -> dict[str, float]:
        requests = (Request(ct, mask, organs.find(organ)) for mask, organ in masks.values())
        return {name: found.mean for name, found in zip(masks, scorer.scores(requests), strict=True)}

    return run


def torch_side(case: Case, weights: Path, embeddings: Path) -> Side:
    """Returns a function that scores all organs as the original does: slice by slice, in batches of one."""
    import torch

    from benchmarks.torch_models.segae import QualitySentinel
    from jaxseg.weights.embeddings import read_embeddings

    model = QualitySentinel(backbone="resnet50")
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    table = torch.from_numpy(read_embeddings(embeddings))
    ct, masks = case

    @torch.inference_mode()
    def run() -> dict[str, float]:
        scores = {}
        for name, (mask, organ) in masks.items():
            values = [
                model(network_input(ct[z], mask[z]), table[organ : organ + 1]).item() for z in slice_indices(mask)
            ]
            scores[name] = sum(values) / len(values)
        return scores

    return run


def slice_indices(mask: np.ndarray) -> list[int]:
    """Returns the indices of the slices that the original scores."""
    found = [z for z in range(len(mask)) if mask[z].any()]
    if len(found) <= SLICES:
        return found
    return [found[int(len(found) / SLICES * k)] for k in range(SLICES)]


def network_input(ct: np.ndarray, mask: np.ndarray):
    """Returns the original's crop of a slice as the input of its network, a (1, 2, 256, 256) tensor."""
    import torch

    rows, columns = np.nonzero(mask)
    sides = [[rows.min() - MARGIN, rows.max() + MARGIN], [columns.min() - MARGIN, columns.max() + MARGIN]]
    sides = [clipped(side, length) for side, length in zip(sides, mask.shape, strict=True)]
    lengths = [end - start for start, end in sides]
    short, half = int(lengths[0] > lengths[1]), abs(lengths[0] - lengths[1]) // 2
    sides[short] = clipped([sides[short][0] - half, sides[short][1] + half], mask.shape[short])
    part = tuple(slice(*side) for side in sides)
    unit = (np.clip(ct[part], LOW, HIGH) - LOW) / (HIGH - LOW)
    planes = []
    for plane, scale in ((unit, CT_SCALE), (mask[part], MASK_SCALE)):
        grey = torch.from_numpy(plane.astype(np.float32)).mul(255).byte().numpy()
        resized = Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        planes.append((torch.from_numpy(np.array(resized)).float() / 255 - SHIFT) / scale)
    return torch.stack(planes)[None]


def clipped(side: Sequence[int], length: int) -> list[int]:
    """Returns a start and an end, limited to the slice."""
    return [max(0, side[0]), min(length, side[1])]


def compare(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Returns the largest difference between the predictions of the two sides.

    Raises:
      ValueError: the difference is larger than the tolerance, or the sides scored different organs.
    """
    if list(ours) != list(theirs):
        raise ValueError(f"jaxseg scored {', '.join(ours)}; PyTorch {', '.join(theirs)}")
    apart = {name: abs(ours[name] - theirs[name]) for name in theirs}
    worst = max(apart, key=lambda name: (not apart[name] <= TOLERANCE, apart[name]))
    if not apart[worst] <= TOLERANCE:  # also if it is not a number
        raise ValueError(f"{worst}: jaxseg predicts {ours[worst]:.6f}, PyTorch {theirs[worst]:.6f}")
    return apart[worst]
