"""The steps of the original CXAS program, from a file to one PNG per class, written by ourselves.

Images are (3, H, W) float32 in [0, 1]; network inputs (1, 3, 512, 512) float32; masks (K, H, W) bool.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

SIZE = 512
THRESHOLD = 0.5
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def segment_file(
    model: nn.Module, path: Path, folder: Path, labels: Sequence[str], *, device: str = "cpu"
) -> torch.Tensor:
    """Segments one film and writes `<folder>/<stem>/<label>.png` for every class, empty ones too.

    Args:
      model: a `BackboneUNet` on `device`, in evaluation mode.
      path: a .png, .jpg or .dcm file.
      folder: where the folder of the film's masks is created.
      labels: the K class names, in the order of the logits.
      device: where the network and the resizing run.

    Returns:
      (K, H, W) bool at the size of the file, on the CPU.
    """
    image = read_image(path)
    masks = predict(model, preprocess(image.to(device)))[1]
    masks = resize_masks(masks, image.shape[1:]).cpu()
    write_masks(masks, Path(folder) / Path(path).stem, labels)
    return masks


def read_image(path: Path) -> torch.Tensor:
    """Reads a film as (3, H, W) float32 in [0, 1]; 16-bit PNG files are clipped at 255, as in the original."""
    suffix = Path(path).suffix.lower()
    if suffix == ".dcm":
        gray = torch.from_numpy(_read_dicom(path))
        return gray[None].repeat(3, 1, 1)
    if suffix not in (".png", ".jpg"):
        raise ValueError(f"the original reads .png, .jpg and .dcm, got {path}: convert the file")
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    # Contiguous, or torch would carry the NHWC layout through the whole network.
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255


def preprocess(image: torch.Tensor) -> torch.Tensor:
    """Returns the network's input: ImageNet-normalised, resized by nearest neighbour to a square."""
    mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (MEAN, STD))
    return functional.interpolate(((image - mean) / std)[None], size=(SIZE, SIZE), mode="nearest")


@torch.inference_mode()
def predict(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the (K, 512, 512) logits and masks of one input."""
    logits = model(x)[0]
    return logits, torch.sigmoid(logits) > THRESHOLD


def resize_masks(masks: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Returns (K, H, W) bool masks at another size, resized as floats by nearest neighbour, as in the original."""
    resized = functional.interpolate(masks[None].float(), size=tuple(size), mode="nearest")
    return resized[0] > 0


def write_masks(masks: torch.Tensor, folder: Path, labels: Sequence[str]) -> None:
    """Writes one 1-bit PNG per class."""
    folder.mkdir(parents=True, exist_ok=True)
    for mask, label in zip(masks.numpy(), labels, strict=True):
        Image.fromarray(mask).save(folder / f"{label}.png")


def _read_dicom(path: Path) -> np.ndarray:
    """Returns one gray frame, (H, W) float32, its smallest value 0 and its largest 1."""
    dataset = pydicom.dcmread(path)
    values = dataset.pixel_array
    if values.ndim != 2:
        raise ValueError(f"{path} holds an array {values.shape}; the original takes a single gray frame")
    values = values.astype(np.float64)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = 2.0**dataset.BitsStored - 1 - values
    values = values * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    values = values.astype(np.float32)
    low, high = values.min(), values.max()
    if low == high:
        raise ValueError(f"{path} is constant ({low}); there is nothing to segment")
    return (values - low) / (high - low)
