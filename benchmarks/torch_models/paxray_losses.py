"""The losses of PAX-Ray's original in PyTorch, as its formulas read; logits and one-hot targets are (B, K, H, W).

Differences: probabilities are given to the losses that the original gives logits, and coefficients are subtracted from
one instead of negated.
"""

import torch
from torch.nn import functional


def probabilities(logits: torch.Tensor, *, exclusive: bool) -> torch.Tensor:
    """Returns the softmax or the sigmoid of logits."""
    return logits.softmax(1) if exclusive else logits.sigmoid()


def counts(p: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns true positives, false positives and false negatives of each image and class, (B, K)."""
    return (p * t).sum((2, 3)), (p * (1 - t)).sum((2, 3)), ((1 - p) * t).sum((2, 3))


def soft_dice(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Returns the mean soft Dice of images and classes."""
    tp, fp, fn = counts(p, t)
    return ((2 * tp + 1) / (2 * tp + fp + fn + 1)).mean()


def tversky(p: torch.Tensor, t: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    """Returns the mean Tversky index of images and classes."""
    tp, fp, fn = counts(p, t)
    return ((tp + 1) / (tp + alpha * fp + beta * fn + 1)).mean()


def generalised(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Returns the loss `gdice`."""
    weight = 1 / (t.sum((2, 3)) + 1e-10) ** 2
    overlap = (weight * (p * t).sum((2, 3))).sum(1)
    total = (weight * (p.sum((2, 3)) + t.sum((2, 3)))).sum(1)
    return (1 - 2 * (overlap + 1e-5) / (total + 1e-5)).mean()


def generalised_of_batch(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Returns the loss `gdicev2`."""
    p, t = (x.transpose(0, 1).flatten(1) for x in (p, t))
    weight = 1 / (t.sum(1) ** 2).clamp(min=1e-5)
    return 1 - 2 * (weight * (p * t).sum(1)).sum() / (weight * (p + t).sum(1)).sum().clamp(min=1e-5)


def sensitivity_specificity(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Returns the loss `ss`."""
    error = (t - p) ** 2
    inside = (error * t).sum((2, 3)) / (t.sum((2, 3)) + 1)
    outside = (error * (1 - t)).sum((2, 3)) / ((1 - t).sum((2, 3)) + 1)
    return (0.1 * inside + 0.9 * outside).mean()


def cross_entropy(logits: torch.Tensor, t: torch.Tensor, *, exclusive: bool, weight=None) -> torch.Tensor:
    """Returns the mean cross-entropy; `weight` is (B, K, H, W), or (B, H, W) for exclusive classes."""
    if exclusive:
        values = functional.cross_entropy(logits, t.argmax(1), reduction="none")
    else:
        values = functional.binary_cross_entropy_with_logits(logits, t, reduction="none")
    return (values if weight is None else values * weight).mean()


def focal(logits: torch.Tensor, t: torch.Tensor, *, exclusive: bool) -> torch.Tensor:
    """Returns the mean focal loss; torchvision's for independent classes."""
    if exclusive:
        label = t.argmax(1)
        p = logits.softmax(1).gather(1, label[:, None])[:, 0]
        return ((1 - p) ** 2 * functional.cross_entropy(logits, label, reduction="none")).mean()
    p = logits.sigmoid()
    of_label = p * t + (1 - p) * (1 - t)
    values = functional.binary_cross_entropy_with_logits(logits, t, reduction="none") * (1 - of_label) ** 2
    return ((0.25 * t + 0.75 * (1 - t)) * values).mean()


def balancing(t: torch.Tensor) -> torch.Tensor:
    """Returns the weights of pixels of `--class_weight` for exclusive classes, (B, H, W)."""
    pixels = t.shape[2] * t.shape[3]
    of_class = (pixels / (t.sum((2, 3)) + 1)).sqrt()
    return (t * of_class[:, :, None, None]).sum(1)


def foreground_dice(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Returns the loss `dice` for exclusive classes."""
    p, t = (x[:, 1:].flatten(1) for x in (p, t))
    return (1 - ((p * t).sum(1) + 1e-8) / (p.sum(1) + t.sum(1) + 1e-8)).mean()


def binary_dice(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Returns the loss `dice` for independent classes."""
    p, t = p.flatten(1), t.flatten(1)
    return (1 - ((p * t).sum(1) + 1) / ((p**2 + t**2).sum(1) + 1)).mean()


def value_of(part: str, logits: torch.Tensor, t: torch.Tensor, *, exclusive: bool) -> torch.Tensor:
    """Returns the value of a part of the loss by its name in the configuration."""
    p = probabilities(logits, exclusive=exclusive)
    match part:
        case "dice":
            return foreground_dice(p, t) if exclusive else binary_dice(p, t)
        case "ce":
            return cross_entropy(logits, t, exclusive=exclusive)
        case "focal":
            return focal(logits, t, exclusive=exclusive)
        case "softdice":
            return 1 - soft_dice(p, t)
        case "iou":
            return 1 - tversky(p, t, 1, 1)
        case "tversky":
            return 1 - tversky(p, t, 0.3, 0.7)
        case "asym":
            return 1 - tversky(p, t, 1 - 1.5**2 / (1 + 1.5**2), 1.5**2 / (1 + 1.5**2))
        case "gdice":
            return generalised(p, t)
        case "gdicev2":
            return generalised_of_batch(p, t)
        case "ss":
            return sensitivity_specificity(p, t)
        case "explog":
            power = (-soft_dice(p, t).clamp(1e-6).log()) ** 0.3
            return 0.8 * power + 0.2 * cross_entropy(logits, t, exclusive=exclusive)
    raise ValueError(f"there is no part {part!r}")
