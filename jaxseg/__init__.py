"""jaxseg: medical image segmentation in JAX. Importing it loads nothing heavy; see the README for a tour."""

import importlib
from pathlib import Path

__version__ = "0.1.0"

# In a clone, cli/ and configs/ lie beside this folder; an installed package has them inside it.
_root = Path(__file__).resolve().parents[1]
if (_root / "setup.cfg").is_file() and (_root / "cli" / "main.py").is_file():
    __path__.append(str(_root))

_PUBLIC = {
    "convert": "jaxseg.weights.load",
    "create": "jaxseg.weights.load",
    "denoise": "jaxseg.post_dae.denoise",
    "denoise_folder": "jaxseg.post_dae.mask_files",
    "Denoiser": "jaxseg.post_dae.denoise",
    "extract": "jaxseg.anatomy.extract",
    "extract_folder": "jaxseg.anatomy.folders",
    "functional": "jaxseg.weights.load",
    "load": "jaxseg.weights.load",
    "load_exported": "jaxseg.export.exported",
    "read_torch_file": "jaxseg.weights.torch_file",
    "sample": "jaxseg.annotators.sample",
    "sample_folder": "jaxseg.annotators.image_files",
    "Sampler": "jaxseg.annotators.sample",
    "score": "jaxseg.segae.score",
    "score_dataset": "jaxseg.segae.score_dataset",
    "score_labels": "jaxseg.segae.score_dataset",
    "Scorer": "jaxseg.segae.score",
    "segae_inference": "jaxseg.segae.score",
    "segment": "jaxseg.anatomy.segment",
    "segment_folder": "jaxseg.anatomy.folders",
    "Segmenter": "jaxseg.anatomy.segment",
    "visualize": "jaxseg.draw.visualize",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jaxseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
