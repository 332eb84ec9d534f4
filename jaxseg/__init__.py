"""jaxseg: medical image segmentation in JAX. Importing it loads nothing heavy; see the README for a tour."""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "convert": "jaxseg.weights.load",
    "create": "jaxseg.weights.load",
    "denoise": "jaxseg.predict.denoise",
    "Denoiser": "jaxseg.predict.denoise",
    "extract": "jaxseg.predict.extract",
    "functional": "jaxseg.weights.load",
    "load": "jaxseg.weights.load",
    "load_exported": "jaxseg.predict.exported",
    "read_torch_file": "jaxseg.weights.torch_file",
    "sample": "jaxseg.predict.sample",
    "Sampler": "jaxseg.predict.sample",
    "score": "jaxseg.predict.score",
    "Scorer": "jaxseg.predict.score",
    "segae_inference": "jaxseg.predict.score",
    "segment": "jaxseg.predict.segment",
    "Segmenter": "jaxseg.predict.segment",
    "visualize": "jaxseg.draw.visualize",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jaxseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
