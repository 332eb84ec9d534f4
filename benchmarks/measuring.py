"""All features of an image's 159 masks: jaxseg and the original's steps with OpenCV, alternating.

python benchmarks/measuring.py [--rounds 11]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.alternate import processor  # noqa: E402
from jaxseg.anatomy.measure.features import FEATURES, measure  # noqa: E402
from jaxseg.vocabulary.labels import CXAS  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "measuring.json"


def masks_of_an_image() -> np.ndarray:
    """Returns 159 overlapping ellipses, (159, 512, 512) bool, in the sizes of anatomical structures."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:512, :512]
    found = np.zeros((159, 512, 512), bool)
    for mask in found:
        cy, cx = rng.uniform(100, 412, 2)
        ry, rx = rng.uniform(8, 110, 2)
        mask[:] = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1 + 0.2 * np.sin(x / 5)
    return found


def with_opencv(masks: np.ndarray, names: Sequence[str] = CXAS) -> dict:
    """Returns the six features of non-empty masks; as in the original, each is computed from the mask again."""
    values = {}
    for name, mask in zip(names, masks, strict=True):
        byte = mask.astype(np.uint8)
        values[f"{name}_area"] = int(byte.sum())
        moments = cv2.moments(byte)
        values[f"{name}_cx"] = int(moments["m10"] / moments["m00"])
        values[f"{name}_box"] = cv2.boundingRect(byte)
        lengths = []
        for _ in range(2):  # once for the perimeter, once for the compactness
            contour = cv2.findContours(byte, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0]
            lengths.append(cv2.arcLength(contour, closed=False))
        values[f"{name}_perimeter"] = lengths[0]
        values[f"{name}_compactness"] = 4 * np.pi * byte.sum() / lengths[1] ** 2
        contour = cv2.findContours(byte, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0]
        values[f"{name}_convexity"] = byte.sum() / cv2.contourArea(cv2.convexHull(contour))
    return values


def main() -> None:
    """Times both sides and writes the medians."""
    from jaxseg.devices import environment  # loads JAX, whose memory end_to_end.py would count as PyTorch's

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="measurements of each side; default: 11")
    rounds = parser.parse_args().rounds
    masks = masks_of_an_image()
    features = [feature.name for feature in FEATURES if feature.kind == "per class"]
    ours, theirs = measure(masks, CXAS, features).values, with_opencv(masks)
    worst = max(abs(ours[name] - theirs[name]) for name in theirs if not name.endswith("_box"))
    seconds: dict[str, list[float]] = {"jaxseg": [], "opencv": []}
    for _ in range(rounds):
        for side, run in (("jaxseg", lambda: measure(masks, CXAS, features)), ("opencv", lambda: with_opencv(masks))):
            start = time.perf_counter()
            run()
            seconds[side].append(time.perf_counter() - start)
    medians = {side: round(statistics.median(values), 4) for side, values in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["jaxseg"], seconds["opencv"], strict=True))
    result = {"seconds_an_image": medians, "opencv_over_jaxseg": round(ratio, 2), "largest_difference": worst}
    result |= {"all": seconds, "rounds": rounds, "opencv": cv2.__version__, "environment": environment()}
    result |= {"date": time.strftime("%Y-%m-%d"), "processor": processor()}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: result[k] for k in ("seconds_an_image", "opencv_over_jaxseg", "largest_difference")}))


if __name__ == "__main__":
    main()
