"""What jaxseg knows of every published model: one row each (pure data, imports nothing heavy)."""

import dataclasses
import difflib

from jaxseg.vocabulary import labels, organs


@dataclasses.dataclass(frozen=True)
class Entry:
    """A published model.

    Attributes:
      name: the name here and on the command line; `aliases` mean the same.
      architecture: key of `jaxseg.architectures.ARCHITECTURES`; None where this version has no such model.
      config: hyper-parameters that differ from the architecture's defaults.
      class_names: label set; None where the user's files name the classes.
      preprocessing: key of `jaxseg.images.preprocess.PREPROCESSING`; "mask" of models that take masks, no images;
        "slice_and_mask" of SegAE, which takes both; "as_stored" of models that take images as their files hold them.
      output_type: what `jaxseg segment` writes unless told otherwise.
      weights_file: the released file; None where nothing was released.
      drive_file: Google Drive id of that file, where it can be fetched directly.
      weights_page: where people find it.
      original_cache: folders (environment variable or "~", then sub-folder) in which the original keeps it.
      licence, citation, project: of the weights and the paper.
      tasks: training tasks of the model: pairs of the name in a configuration and the import path of the Task class.
    """

    name: str
    title: str
    project: str
    citation: str
    aliases: tuple[str, ...] = ()
    architecture: str | None = None
    config: tuple[tuple[str, object], ...] = ()
    class_names: tuple[str, ...] | None = None
    preprocessing: str | None = None
    output_type: str = "png"
    weights_file: str | None = None
    drive_file: str | None = None
    weights_page: str | None = None
    original_cache: tuple[tuple[str, str], ...] = ()
    licence: str = "none: train your own"
    tasks: tuple[tuple[str, str], ...] = ()

    @property
    def num_classes(self) -> int | None:
        """Output channels of the published network."""
        return dict(self.config).get("num_classes")


ENTRIES = (
    Entry(
        name="cxas",
        aliases=("UNet_ResNet50_default",),
        title="chest X-ray anatomy, 159 classes",
        project="ConstantinSeibold/ChestXRayAnatomySegmentation (CXAS)",
        citation="Seibold et al. 2023, arXiv:2306.03934",
        architecture="unet",
        config=(("num_classes", 159),),
        class_names=labels.CXAS,
        preprocessing="cxas",
        weights_file="UNet_ResNet50_default.pth",
        drive_file="1Y9zubvMzkYHoAqz-NvV6vniH5FKAF2iV",
        weights_page="https://github.com/ConstantinSeibold/ChestXRayAnatomySegmentation",
        original_cache=(("CXAS_PATH", ".cxas/weights"), ("~", ".cxas/weights")),
        licence="CC BY-NC-SA 4.0: not for commercial use",
        tasks=(("phantom", "jaxseg.anatomy.phantom_task:PhantomTask"),),
    ),
    Entry(
        name="paxray",
        title="chest X-ray anatomy, 166 classes (multi-label training)",
        project="ConstantinSeibold/multilabel_segmentation_paxray (PAX-Ray)",
        citation="Seibold et al. 2022, arXiv:2210.03416",
        architecture="unet",
        config=(("num_classes", 166),),
        preprocessing="paxray",
        output_type="npy",
        weights_file="ckpt_epoch_best.pth",
        weights_page="https://github.com/ConstantinSeibold/multilabel_segmentation_paxray",
        licence="not stated for the weights; the dataset is CC BY-NC-SA, so treat them as not for commercial use",
        tasks=(("paxray", "jaxseg.anatomy.task:PaxrayTask"),),
    ),
    Entry(
        name="post_dae",
        title="anatomical post-processing of masks (Post-DAE)",
        project="balazsborsos/dae_postprocessing",
        citation="Larrazabal et al. 2020, doi 10.1109/TMI.2020.3005297",
        architecture="dae",
        preprocessing="mask",
        tasks=(("post_dae", "jaxseg.post_dae.task:PostDAETask"),),
    ),
    Entry(
        name="segae",
        aliases=("quality_sentinel",),
        title="how good is this mask? (SegAE / Quality Sentinel)",
        project="Schuture/Quality-Sentinel",
        citation="Chen et al. 2024, arXiv:2406.00327",
        architecture="segae",
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
        citation="see the project's page",
        architecture="cmvae",
        preprocessing="as_stored",
        tasks=(("cmvae", "jaxseg.annotators.cmvae_task:CMVAETask"),),
    ),
    Entry(
        name="prob_unet",
        title="probabilistic U-Net",
        project="rCampSemp/learn-vae-noisy-label",
        citation="Kohl et al. 2018, arXiv:1806.05034",
        architecture="prob_unet",
        preprocessing="as_stored",
        tasks=(("prob_unet", "jaxseg.annotators.prob_unet_task:ProbUNetTask"),),
    ),
)

TASKS = dict(sorted(task for entry in ENTRIES for task in entry.tasks))  # name of a training task -> import path

BY_NAME = {name.lower(): entry for entry in ENTRIES for name in (entry.name, *entry.aliases)}


def find(name: str) -> Entry:
    """Returns the entry of a model name or alias, upper and lower case alike.

    Raises:
      ValueError: no model has this name; the known and the nearest names are listed.
    """
    entry = BY_NAME.get(str(name).lower())
    if entry is None:
        near = difflib.get_close_matches(str(name).lower(), BY_NAME, 1)
        hint = f"; did you mean {BY_NAME[near[0]].name!r}?" if near else ""
        raise ValueError(f"unknown model {name!r}{hint} (known: {', '.join(e.name for e in ENTRIES)})")
    return entry


def find_available(name: str) -> Entry:
    """Returns the entry of a model that this version can build; ValueError otherwise."""
    entry = find(name)
    if entry.architecture is None:
        ready = ", ".join(e.name for e in ENTRIES if e.architecture)
        raise ValueError(f"model {entry.name!r} ({entry.title}) is not in this version of jaxseg; there are: {ready}")
    return entry
