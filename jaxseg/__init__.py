"""jaxseg: medical image segmentation in JAX. Importing it loads nothing heavy; see the README for a tour."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in _PUBLIC below, for type checkers and editors
    from jaxseg.anatomy.extract import extract as extract
    from jaxseg.anatomy.folders import extract_folder as extract_folder
    from jaxseg.anatomy.folders import segment_folder as segment_folder
    from jaxseg.anatomy.from_masks import measure_folder as measure_folder
    from jaxseg.anatomy.orientation import read_reference as read_reference
    from jaxseg.anatomy.orientation import write_reference as write_reference
    from jaxseg.anatomy.register import register as register
    from jaxseg.anatomy.register_files import build_reference as build_reference
    from jaxseg.anatomy.register_files import register_folder as register_folder
    from jaxseg.anatomy.segment import Segmenter as Segmenter
    from jaxseg.anatomy.segment import segment as segment
    from jaxseg.annotators.image_files import sample_folder as sample_folder
    from jaxseg.annotators.lidc.prepare import prepare_lidc as prepare_lidc
    from jaxseg.annotators.mnist import prepare_mnist as prepare_mnist
    from jaxseg.annotators.sample import Sampler as Sampler
    from jaxseg.annotators.sample import sample as sample
    from jaxseg.datasets.phantom_sets import prepare_phantoms as prepare_phantoms
    from jaxseg.draw.visualize import visualize as visualize
    from jaxseg.export.exported import load_exported as load_exported
    from jaxseg.masks.segmentation import Segmentation as Segmentation
    from jaxseg.post_dae.denoise import Denoiser as Denoiser
    from jaxseg.post_dae.denoise import denoise as denoise
    from jaxseg.post_dae.mask_files import denoise_folder as denoise_folder
    from jaxseg.segae.prepare import prepare_segae as prepare_segae
    from jaxseg.segae.score import Scorer as Scorer
    from jaxseg.segae.score import score as score
    from jaxseg.segae.score import segae_inference as segae_inference
    from jaxseg.segae.score_dataset import score_dataset as score_dataset
    from jaxseg.segae.score_dataset import score_labels as score_labels
    from jaxseg.weights.load import convert as convert
    from jaxseg.weights.load import create as create
    from jaxseg.weights.load import functional as functional
    from jaxseg.weights.load import load as load
    from jaxseg.weights.torch_file import read_torch_file as read_torch_file

__version__ = "0.1.0"

# In a clone, cli/ and configs/ are beside this folder; in an installed package they are inside it.
_root = Path(__file__).resolve().parents[1]
if (_root / "setup.cfg").is_file() and (_root / "cli" / "main.py").is_file():
    __path__.append(str(_root))

_PUBLIC = {
    "build_reference": "jaxseg.anatomy.register_files",
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
    "measure_folder": "jaxseg.anatomy.from_masks",
    "prepare_lidc": "jaxseg.annotators.lidc.prepare",
    "prepare_mnist": "jaxseg.annotators.mnist",
    "prepare_phantoms": "jaxseg.datasets.phantom_sets",
    "prepare_segae": "jaxseg.segae.prepare",
    "read_reference": "jaxseg.anatomy.orientation",
    "read_torch_file": "jaxseg.weights.torch_file",
    "register": "jaxseg.anatomy.register",
    "register_folder": "jaxseg.anatomy.register_files",
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
    "Segmentation": "jaxseg.masks.segmentation",
    "Segmenter": "jaxseg.anatomy.segment",
    "visualize": "jaxseg.draw.visualize",
    "write_reference": "jaxseg.anatomy.orientation",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jaxseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
