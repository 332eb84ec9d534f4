"""Logits and targets for the losses of PAX-Ray, and the values that the PyTorch definitions compute for them."""

import numpy as np

PARTS = ("dice", "ce", "focal", "softdice", "iou", "gdice", "gdicev2", "explog", "tversky", "ss", "asym")


def case(*, exclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits and a target, (2, 6, 7, 4) float32; the values are fractions, the same everywhere.

    Exclusive targets have one class per pixel. In the others, classes overlap, and one image lacks one class.
    """
    number = np.arange(2 * 6 * 7 * 4).reshape(2, 6, 7, 4)
    logits = ((number * 37) % 41 - 20).astype(np.float32) / 8 + np.float32(1 / 16)  # 0 would be a corner of some losses
    if exclusive:
        labels = (number[..., 0] // 4 * 5 % 11) % 4
        return logits, (labels[..., None] == np.arange(4)).astype(np.float32)
    target = ((number * 29) % 17 < 7).astype(np.float32)
    target[1, ..., 2] = 0
    return logits, target
