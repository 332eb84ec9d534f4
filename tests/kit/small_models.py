"""Hyper-parameters with which each model of the registry is small enough for a quick test, and tiny model directories.

A model that is not listed is tested with its default hyper-parameters.
"""

import dataclasses
from pathlib import Path

import jaxseg
from jaxseg.weights.store import save_model

SMALL = {
    "cxas": {"backbone": "resnet18", "width": 4, "num_classes": 3},
    "paxray": {"backbone": "resnet18", "width": 4, "num_classes": 2, "in_channels": 1},
    "paxray_unet": {"width": 4, "num_classes": 3, "exclusive": True},
    "paxray_fpn": {"backbone": "resnet18", "width": 4, "num_classes": 2},
    "post_dae": {
        "image_size": (16, 24),
        "features": (8, 12),
        "decoder_features": (12, 12),
        "intermediate": (32, 16),
        "strides": (2, 2),
        "norm": "batch",
        "decoder_activation": "relu",
    },
    "segae": {"backbone": "resnet18", "width": 4, "num_labels": 5, "embedding_size": 6},
    "cmvae": {"image_size": (16, 24), "width": 8, "depth": 2, "norm": "bn"},
    "prob_unet": {"filters": (4, 8)},
}


def save_tiny(folder: Path, name: str, **options) -> Path:
    """Saves a narrow model for inputs of 64 x 64 pixels in a folder, and returns its directory."""
    model = jaxseg.create(name, backbone="resnet18", width=4, **options)
    model.card = dataclasses.replace(model.card, input_size=(64, 64))
    return save_model(model, folder / "model", model.card)
