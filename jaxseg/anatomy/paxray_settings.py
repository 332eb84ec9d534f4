"""The settings of the task `paxray`: sections `data`, `model` and `loss` of its configuration."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from jaxseg.anatomy.augment import Augmentation
from jaxseg.anatomy.coco_set import read_coco_set
from jaxseg.anatomy.data import SPLITS, Paxray, read_paxray
from jaxseg.anatomy.objective import BALANCED, PARTS, UNWEIGHTED, Part
from jaxseg.anatomy.unet import UNetConfig
from jaxseg.images.fit import Fit
from jaxseg.settings import Range, section, verify
from jaxseg.training.config.sections import LoadingConfig

AUGMENTED = ("resize_prob", "resize_scale", "flip_prob", "rotate", "rotate_prob")
AUGMENTED += ("jitter", "jitter_prob", "noise", "noise_prob")
NETWORKS = {"backbone_unet": "paxray", "unet": "paxray_unet", "fpn": "paxray_fpn"}  # -> name in the registry

Side = Annotated[int, Range(32, 8192)]
Share = Annotated[float, Range(0, 1, below=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(section(Augmentation, *AUGMENTED), LoadingConfig):
    """The data set and its augmentation, see `jaxseg.anatomy.augment.Augmentation`.

    Attributes:
      root: folder of the data set; `-i` of the command.
      format: "paxray": a list as PAX-Ray publishes it, with a .npy file per image; "coco": files in the format of COCO.
      file: name of the list in the folder; for "coco", of the one file of all splits.
      files: for "coco", a file per split instead of `file`, such as ["train=train.json", "val=val.json"].
      images: for "coco", the folder in the data set's folder that the names of the images are relative to.
      splits: for "coco" with one file, how it is split: "listed": by `split` of each entry of its images; "folders": by
        the folder called train, val or test in the name of each image; "random": by `val_share` and `test_share`.
      val_share: for `splits` "random", the share of the images for validation, chosen by `subset_seed`.
      test_share: for `splits` "random", the share of the images for testing.
      crowd: for "coco", whether the pixels of annotations with `iscrowd` belong to their class.
      load_size: side to which images and masks are resized; the network is validated and used at this size.
      crop_size: side of the crops for training.
      train_fraction: share of the training split to use, selected by `subset_seed`.
      subset_seed: random seed of that selection.
      preprocessing: "paxray" normalises as the original does in training, "cxas" divides by 255 first.
      fit: "stretch": images fill the square and lose their aspect ratio; "pad": the longer side fits, with black beside
        the image; "crop": the shorter side fits, and the ends of the longer one are cut off.
    """

    root: str
    format: Literal["paxray", "coco"] = "paxray"
    file: str = "paxray.json"
    files: tuple[str, ...] = ()
    images: str = ""
    splits: Literal["listed", "folders", "random"] = "listed"
    val_share: Share = 0.1
    test_share: Share = 0.0
    crowd: bool = True
    load_size: Side = 512
    crop_size: Side = 480
    train_fraction: Annotated[float, Range(0, 1, above=True)] = 1.0
    subset_seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    preprocessing: Literal["paxray", "cxas"] = "paxray"
    fit: Fit = "stretch"

    def __post_init__(self):
        verify(self, self._problems())

    @property
    def prepared(self) -> str:
        """Key of `jaxseg.images.preprocess.PREPROCESSING`."""
        return self.preprocessing if self.fit == "stretch" else f"{self.preprocessing}_{self.fit}"

    @property
    def lists(self) -> dict[str, str]:
        """Split -> name of its list; "" -> the list of all splits."""
        return dict(entry.split("=", 1) for entry in self.files) if self.files else {"": self.file}

    def _problems(self) -> Iterator[str]:
        if self.load_size % 8:
            yield f"load_size: {self.load_size} is not a multiple of 8"
        if self.crop_size > self.load_size:
            yield f"crop_size: {self.crop_size} is more than load_size, {self.load_size}"
        elif self.resize_prob and int(self.load_size * self.resize_scale) <= self.crop_size:
            yield f"resize_scale: {self.resize_scale:g} times load_size must exceed crop_size, {self.crop_size}"
        if self.val_share + self.test_share >= 1:
            yield "val_share: with test_share it must leave images for training"
        if self.files and self.format != "coco":
            yield "files: they are those of format: coco; the lists of PAX-Ray are one file"
        given = [entry.partition("=")[0] for entry in self.files]
        if any("=" not in entry for entry in self.files) or not set(given) <= {*SPLITS} or len({*given}) < len(given):
            yield f"files: each must be SPLIT=FILE, with a different split of {', '.join(SPLITS)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(section(UNetConfig, "backbone", "width", "dropout", "exclusive")):
    """The network, see `jaxseg.anatomy.unet.UNetConfig`.

    Attributes:
      network: "backbone_unet": a ResNet with the decoder of a U-Net, the original's network; "unet": a plain U-Net
        without ResNet; "fpn": a ResNet with a feature pyramid.
      backbone: for "backbone_unet" and "fpn", the ResNet.
      backbone_weights: a .pth or .safetensors file of a torchvision ResNet, such as that of ImageNet, or its address
        hf://owner/name[@revision][/file], from which a new run starts; null for random weights. Resuming or evaluating
        a run does not need the file.
    """

    network: Literal["backbone_unet", "unet", "fpn"] = "backbone_unet"
    backbone_weights: str | None = None

    def __post_init__(self):
        plain = self.network == "unet" and self.backbone_weights is not None
        verify(self, ["backbone_weights: the network unet has no backbone; set it to null"] if plain else [])


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss is the sum of its parts.

    Attributes:
      parts: "dice" (over all classes together) and "ce" (cross-entropy) are the original's usual parts, and "focal",
        "softdice", "iou", "gdice", "gdicev2", "explog", "tversky", "ss" and "asym" its others; "class_dice" is the mean
        Dice loss of the classes with squared probabilities.
      balance: whether rare pixels count more in "ce" and "focal": `--class_weight` of the original.
      class_weights: weights of classes, such as ["heart=2.5"]; the others weigh 1. They apply to all parts except
        "dice", "gdice" and "gdicev2".
    """

    parts: tuple[Part, ...] = ("dice", "ce")
    balance: bool = False
    class_weights: tuple[str, ...] = ()

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self) -> Iterator[str]:
        if not self.parts:
            yield f"parts: name at least one of {', '.join(PARTS)}"
        if len(set(self.parts)) < len(self.parts):
            yield "parts: one is named twice"
        if self.balance and not BALANCED & {*self.parts}:
            yield f"balance: it has no effect without one of the parts {', '.join(sorted(BALANCED))}"
        if self.class_weights and {*self.parts} <= UNWEIGHTED:
            yield f"class_weights: they have no effect on the parts {', '.join(self.parts)}"


def read_set(cfg: DataConfig, *, exclusive: bool) -> Paxray:
    """Returns the lists of the data set.

    Args:
      cfg: where and what it is.
      exclusive: whether classes exclude each other. A data set in the format of COCO then gets "background" as its
        first class, unless its first class is called so.

    Raises:
      ValueError, OSError: as `read_paxray` and `read_coco_set`.
    """
    if cfg.format == "paxray":
        return read_paxray(cfg.root, cfg.file)
    return read_coco_set(
        cfg.root,
        cfg.lists,
        images=cfg.images,
        how=cfg.splits,
        shares=(cfg.val_share, cfg.test_share),
        seed=cfg.subset_seed,
        crowd=cfg.crowd,
        background=exclusive,
    )
