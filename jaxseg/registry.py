"""All models that jaxseg has, one row each. This is pure data: importing it loads nothing heavy."""

import dataclasses
import difflib
import importlib
from typing import TYPE_CHECKING

from jaxseg.vocabulary import labels, organs

if TYPE_CHECKING:
    from jaxseg.weights.model import Model


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model.

    Attributes:
      name: the name in Python and on the command line.
      title: one line that says what the model does.
      project: the original project.
      citation: the paper.
      architecture: the name of the model class in `card.json` files. Models of one class share it.
      model: import path of the model class, "module:Class"; a subclass of `jaxseg.weights.model.Model`.
      preprocessing: key of `jaxseg.images.preprocess.PREPROCESSING`, or "mask" (the model takes masks),
        "slice_and_mask" (it takes a CT slice and a mask), or "as_stored" (it takes images as the files store them).
      aliases: other names that mean the same model.
      config: hyper-parameters that differ from the defaults of the model class.
      class_names: label set; None if the user's files name the classes.
      output_type: the default output type of `jaxseg segment`.
      weights_file: the released file; None if nothing was released.
      drive_file: Google Drive id of that file; None if it cannot be downloaded directly.
      weights_page: the web page of that file.
      original_cache: folders in which the original keeps that file: (environment variable or "~", sub-folder).
      release_url: address of the same weights in a release of another project, which is tried before Google Drive.
      release_cache: folder in which that project keeps that file, as in `original_cache`.
      licence: of the weights.
      tasks: training tasks of the model: pairs of the name in a configuration and the import path of the Task class.
    """

    name: str
    title: str
    project: str
    citation: str
    architecture: str
    model: str
    preprocessing: str
    aliases: tuple[str, ...] = ()
    config: tuple[tuple[str, object], ...] = ()
    class_names: tuple[str, ...] | None = None
    output_type: str = "png"
    weights_file: str | None = None
    drive_file: str | None = None
    weights_page: str | None = None
    original_cache: tuple[tuple[str, str], ...] = ()
    release_url: str | None = None
    release_cache: tuple[tuple[str, str], ...] = ()
    licence: str = "none: train your own"
    tasks: tuple[tuple[str, str], ...] = ()

    @property
    def num_classes(self) -> int | None:
        """Number of output channels of the published network; None if nothing was published."""
        found = dict(self.config).get("num_classes")
        return found if isinstance(found, int) else None

    @property
    def release_file(self) -> str | None:
        """Name of the file at `release_url`."""
        return self.release_url and self.release_url.rpartition("/")[2]

    @property
    def model_class(self) -> "type[Model]":
        """The model class, imported on first use."""
        return model_class(self.architecture)


ENTRIES = (
    Entry(
        name="cxas",
        aliases=("UNet_ResNet50_default",),
        title="chest X-ray anatomy, 159 classes",
        project="ConstantinSeibold/ChestXRayAnatomySegmentation (CXAS up to 0.0.16; options give what 0.0.20 does)",
        citation="Seibold et al. 2023, arXiv:2306.03934",
        architecture="unet",
        model="jaxseg.anatomy.unet:UNet",
        config=(("num_classes", 159),),
        class_names=labels.CXAS,
        preprocessing="cxas",
        weights_file="UNet_ResNet50_default.pth",
        drive_file="1Y9zubvMzkYHoAqz-NvV6vniH5FKAF2iV",
        weights_page="https://github.com/ConstantinSeibold/ChestXRayAnatomySegmentation",
        original_cache=(("CXAS_PATH", ".cxas/weights"), ("~", ".cxas/weights")),
        release_url="https://github.com/mlmed/torchxrayvision/releases/download/v1/"
        "baseline_models_cxas_UNet_ResNet50_default_repack.pth",
        release_cache=(("~", ".torchxrayvision/models_data"),),
        licence="CC BY-NC-SA 4.0: not for commercial use",
        tasks=(("phantom", "jaxseg.anatomy.phantom_task:PhantomTask"),),
    ),
    Entry(
        name="paxray",
        title="chest X-ray anatomy, 166 classes (multi-label training)",
        project="ConstantinSeibold/multilabel_segmentation_paxray (PAX-Ray)",
        citation="Seibold et al. 2022, arXiv:2210.03416",
        architecture="unet",
        model="jaxseg.anatomy.unet:UNet",
        config=(("num_classes", 166),),
        preprocessing="paxray",
        output_type="npy",
        weights_file="ckpt_epoch_best.pth",
        weights_page="https://github.com/ConstantinSeibold/multilabel_segmentation_paxray",
        licence="not stated for the weights; the dataset is CC BY-NC-SA, so treat them as not for commercial use",
        tasks=(("paxray", "jaxseg.anatomy.task:PaxrayTask"),),
    ),
    Entry(
        name="paxray_unet",
        title="chest X-ray anatomy, plain U-Net without a backbone",
        project="ConstantinSeibold/multilabel_segmentation_paxray (PAX-Ray, --model unet)",
        citation="Seibold et al. 2022, arXiv:2210.03416",
        architecture="plain_unet",
        model="jaxseg.anatomy.plain_unet:PlainUNet",
        preprocessing="paxray",
        output_type="npy",
    ),
    Entry(
        name="paxray_fpn",
        title="chest X-ray anatomy, feature pyramid",
        project="ConstantinSeibold/multilabel_segmentation_paxray (PAX-Ray, --model segfpn)",
        citation="Seibold et al. 2022, arXiv:2210.03416",
        architecture="fpn",
        model="jaxseg.anatomy.fpn:FeaturePyramid",
        config=(("num_classes", 166),),
        preprocessing="paxray",
        output_type="npy",
    ),
    Entry(
        name="post_dae",
        title="anatomical post-processing of masks (Post-DAE)",
        project="balazsborsos/dae_postprocessing",
        citation="Larrazabal et al. 2020, doi 10.1109/TMI.2020.3005297",
        architecture="dae",
        model="jaxseg.post_dae.model:DAE",
        preprocessing="mask",
        tasks=(("post_dae", "jaxseg.post_dae.task:PostDAETask"),),
    ),
    Entry(
        name="segae",
        aliases=("quality_sentinel",),
        title="quality of masks: predicted Dice (SegAE / Quality Sentinel)",
        project="Schuture/Quality-Sentinel",
        citation="Chen et al. 2024, arXiv:2406.00327",
        architecture="segae",
        model="jaxseg.segae.model:SegAE",
        class_names=organs.NAMES,
        preprocessing="slice_and_mask",
        weights_file="best_resnet50_model_40_samples.pth",
        weights_page="https://github.com/Schuture/Quality-Sentinel",
        licence="not stated by its authors",
        tasks=(("segae", "jaxseg.segae.task:SegAETask"),),
    ),
    Entry(
        name="cmvae",
        title="learning from annotators who disagree (confusion-matrix VAE)",
        project="rCampSemp/learn-vae-noisy-label",
        citation="the project's own model, which builds on Zhang et al. 2020, arXiv:2007.15963",
        architecture="cmvae",
        model="jaxseg.annotators.cmvae:CMVAE",
        preprocessing="as_stored",
        tasks=(
            ("cmvae", "jaxseg.annotators.cmvae_task:CMVAETask"),
            ("named_annotators", "jaxseg.annotators.named_task:NamedAnnotatorsTask"),
        ),
    ),
    Entry(
        name="prob_unet",
        title="probabilistic U-Net",
        project="rCampSemp/learn-vae-noisy-label",
        citation="Kohl et al. 2018, arXiv:1806.05034",
        architecture="prob_unet",
        model="jaxseg.annotators.prob_unet:ProbUNet",
        preprocessing="as_stored",
        tasks=(("prob_unet", "jaxseg.annotators.prob_unet_task:ProbUNetTask"),),
    ),
)

TASKS = dict(sorted(task for entry in ENTRIES for task in entry.tasks))  # name of a training task -> import path
MODELS = {entry.architecture: entry.model for entry in ENTRIES}  # architecture -> import path of the model class

BY_NAME = {name.lower(): entry for entry in ENTRIES for name in (entry.name, *entry.aliases)}


def find(name: str) -> Entry:
    """Returns the entry of a model name or alias; upper and lower case do not matter.

    >>> find("Quality_Sentinel").name
    'segae'

    Raises:
      ValueError: no model has this name; the message lists the known names and the nearest one.
    """
    entry = BY_NAME.get(str(name).lower())
    if entry is None:
        near = difflib.get_close_matches(str(name).lower(), BY_NAME, 1)
        hint = f"; did you mean {BY_NAME[near[0]].name!r}?" if near else ""
        raise ValueError(f"unknown model {name!r}{hint} (known: {', '.join(e.name for e in ENTRIES)})")
    return entry


def entries_of(architecture: str) -> tuple[Entry, ...]:
    """Returns the models that share a model class."""
    return tuple(entry for entry in ENTRIES if entry.architecture == architecture)


def model_class(architecture: str) -> "type[Model]":
    """Returns the model class that a card names, imported on first use.

    Raises:
      ValueError: no model has this architecture; the known ones are listed.
    """
    if architecture not in MODELS:
        raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(MODELS)}")
    module, _, name = MODELS[architecture].partition(":")
    found: type[Model] = getattr(importlib.import_module(module), name)
    return found
