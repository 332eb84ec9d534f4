"""The chest phantoms of the parity kit, and what the original measured on them."""

import json

import numpy as np
from parity_kit import DATA

from jaxseg.vocabulary.labels import CXAS

NAMES = ("plausible", "awkward", "no_hemidiaphragm", "one_vertebra", "shifted_heart")
GOLDEN = json.loads((DATA / "goldens" / "cxas_features.json").read_text())


def phantom(kit, name: str) -> np.ndarray:
    """Returns the masks of a phantom, (159, 512, 512) bool."""
    drawn = json.loads((kit.folder / "phantoms" / "phantoms.json").read_text())[name]
    shapes = [drawn["shapes"].get(str(k), []) for k in range(len(CXAS))]
    return kit.fill.rasterise(shapes, drawn["height"], drawn["width"])
