"""The plan of a pipeline: models, images and true masks, all checked before anything runs."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxseg import summaries
from jaxseg.anatomy.extract import needed_classes, table_suffix
from jaxseg.anatomy.measure.features import find_all
from jaxseg.anatomy.orientation import find_reference
from jaxseg.anatomy.segment import Segmenter, check_classes
from jaxseg.comparison.sources import UNNAMED, Place, list_places, open_place
from jaxseg.files import printable, resolved
from jaxseg.folder_runs.inputs import find_images, folded, result_names
from jaxseg.folder_runs.ledger import changed_settings
from jaxseg.masks import cohort
from jaxseg.masks.pictures import parse_levels
from jaxseg.masks.read import select
from jaxseg.parquet import require_pyarrow
from jaxseg.pipeline.config import PipelineConfig
from jaxseg.post_dae.denoise import Denoiser, Postprocess
from jaxseg.report.page import is_report
from jaxseg.vocabulary import labels
from jaxseg.weights.hub import local_path
from jaxseg.weights.load import choose_model, load
from jaxseg.weights.model import Model

FOLDERS = {"segment": "masks", "restore": "restored", "measure": "measurements", "compare": "comparison"}
SIDES = ("segment", "restore")  # stages whose masks are compared with the true ones, into a table named like the folder
REPORT, REVIEW, RECORD = "report.html", "review.csv", "pipeline.json"  # files in the output folder
Progress = Callable[[int, int | None], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a pipeline needs, checked.

    Attributes:
      config: the configuration.
      source: the input, an image or a folder of images.
      output: folder of the results.
      names: image -> name of its results in the folder of every stage, also if other images fail there.
      model: the network.
      options: the options of `Segmenter` that the stages segment and restore share.
      segmenter: of the stage segment.
      restoring: what restores the masks; None without the stage.
      truth: folder or file of the true masks; None without the stage compare.
    """

    config: PipelineConfig
    source: Path
    output: Path
    names: Mapping[Path, str]
    model: Model
    options: dict[str, Any]
    segmenter: Segmenter
    restoring: Postprocess | None
    truth: Path | None

    @property
    def masks(self) -> Path:
        """Folder of the masks that are measured and shown: the restored ones, if there are any."""
        return self.folder("restore" if self.restoring else "segment")

    def folder(self, stage: str) -> Path:
        """Returns the folder of the results of a stage that has one."""
        return self.output / FOLDERS[stage]

    def changed(self) -> dict[str, list[str]]:
        """Returns the stages whose results were made with other settings -> the names of these settings.

        The format of the masks is not among them; the record of the pipeline holds it.

        Raises:
          ValueError: a folder of results has a summary of another origin.
        """
        found = {}
        for stage, settings in self._settings().items():
            with _stored(self.folder(stage)) as summary:
                stored = dict(summary["settings"])
            if names := changed_settings(stored, settings, partly=True):
                found[stage] = sorted(names)
        return found

    def _settings(self) -> dict[str, dict[str, Any]]:
        """Returns what the results of each stage that works on single images depend on, as its summary holds it."""
        own = self.segmenter.settings | {"classes": list(self.segmenter.names)}
        found = {"segment": own}
        if self.segmenter.confidence:
            check = self.segmenter.shape_check
            found["segment"] = own | {"tta": self.segmenter.tta, "shape_check": check and check.settings}
        if self.restoring is not None:
            found["restore"] = own | {"denoise": self.restoring.settings}
        if (cfg := self.config.measure) is not None:
            names = [feature.name for feature in find_all(cfg.features, groups=self.segmenter.groups)]
            found["measure"] = {"features": names, "original_values": cfg.original_values}
            found["measure"] |= {"groups": self.segmenter.groups}
        return found


def make_plan(
    config: PipelineConfig,
    source: str | Path,
    output: str | Path,
    *,
    recursive: bool = False,
    devices: Sequence[jax.Device] | None = None,
    models: Mapping[str, Model] | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Reads the models, finds the images, and checks everything that can be checked before a pipeline runs.

    Args:
      config: result of `jaxseg.pipeline.config.read_pipeline`.
      source: a png, jpg or dcm file, or a folder of them.
      output: folder of the results; nothing is written yet.
      recursive: also search sub-folders.
      devices: JAX devices to spread each batch over; None: the first.
      models: models that are loaded already, by the section whose weights they are: "segment", "restore".
      progress: called while weights are downloaded, as `jaxseg.load` calls it.

    Raises:
      ValueError: a setting does not fit the models, the images or the true masks; the message names the setting.
      OSError: a file or folder cannot be read.
    """
    source, output, models = Path(source), Path(output), dict(models or {})
    files = find_images(source, recursive=recursive, output=output)
    _check_output(output)
    _check_packages(config)
    images = _result_names(files, source, output / FOLDERS["segment"])
    truth = _truth(config, list(images.values()))
    model = models.get("segment") or _network(config, progress)
    options = _options(config, model, devices)
    names = _class_names(config, model)
    restoring = _restoring(config, models.get("restore"), names, devices, progress)
    _check_names(config, names)
    _check_true_classes(config, truth, list(images.values()), names)
    with _setting("segment"):
        segmenter = Segmenter(model, **options, **_confidence(config, restoring))
    return Plan(config, source, output, images, model, options, segmenter, restoring, truth)


@contextlib.contextmanager
def _stored(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yields the summary of the run in a folder; one without settings and files if there is none.

    Raises:
      ValueError: the summary is of another origin: reading it fails, or what the body reads from it.
    """
    paths = summaries.summary_files(folder)
    try:
        yield summaries.joined(paths) if paths else {"settings": {}, "files": {}}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{paths[0]} is not a jaxseg summary; name another output folder, or remove it") from None


def _result_names(files: Sequence[Path], source: Path, folder: Path) -> dict[Path, str]:
    """Returns the names of the results of images: those that they have in a folder already, otherwise new ones.

    Raises:
      ValueError: the summary in the folder is of another origin; or the name that an image has is that of a sub-folder
        of the input now.
    """
    known: dict[str, list[str]] = {}
    with _stored(folder) as summary:
        for key, entry in summary["files"].items():
            known.setdefault(resolved(folder, entry["source"]), []).append(key)
    had = {file: known.get(str(file.resolve()), []) for file in files} if known else {}
    names = result_names(files, source, known=had)
    mirrored = {folded(parent) for name in names for parent in Path(name).parents}
    for file, before in had.items():
        if any(folded(Path(name)) in mirrored for name in before):
            raise ValueError(
                f"{folder} holds the results of {printable(file.name)} where those of a sub-folder of the input would "
                "be; name another output folder, or rename the sub-folder"
            )
    return dict(zip(files, names, strict=True))


@contextlib.contextmanager
def _setting(name: str) -> Iterator[None]:
    """Adds the name of a setting to the errors that it causes."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{name}: {error}") from None


def _check_output(output: Path) -> None:
    page = output / REPORT
    if page.exists() and not is_report(page):
        raise ValueError(f"{page} is not a jaxseg report; name another output folder, or remove it")


def _check_packages(config: PipelineConfig) -> None:
    """Raises a ValueError if a format needs a package that is not installed."""
    with _setting("segment.output_type"):
        if config.segment.output_type == "parquet":
            require_pyarrow()
        if config.segment.output_type == "dicom-seg":
            from jaxseg.masks.dicom_seg import require_highdicom

            require_highdicom()
    if config.measure is not None:
        with _setting("measure.table"):
            table_suffix(config.measure.table)


def _truth(config: PipelineConfig, images: Sequence[str]) -> Path | None:
    """Returns where the true masks are; None if there are none.

    Raises:
      ValueError: there are no masks, or none of the images with these names.
    """
    if config.compare is None or config.compare.truth is None:
        return None
    truth = Path(config.compare.truth).expanduser()
    with _setting("compare.truth"):
        known = list_places(truth, levels=parse_levels(config.compare.labels) or None)
        if not _shared(known, images):
            some = [", ".join(map(printable, sorted(names)[:3])) for names in (known, images)]
            raise ValueError(f"{truth} has masks of {some[0]}, but the images are {some[1]}: none has a true mask")
    return truth


def _shared(known: Mapping[str, Place], images: Sequence[str]) -> list[Place]:
    """Returns the places of the true masks of the images with these names."""
    if len(known) == len(images) == 1:  # two single files belong together under any names
        return list(known.values())
    return [known[name] for name in images if name in known]


def _check_true_classes(
    config: PipelineConfig, truth: Path | None, images: Sequence[str], names: Sequence[str]
) -> None:
    """Raises a ValueError if the true masks of the first image have none of the classes that are segmented."""
    if truth is None or config.compare is None:
        return
    levels = parse_levels(config.compare.labels) or None
    with _setting("compare.truth"):
        found = open_place(_shared(list_places(truth, levels=levels), images)[0], levels=levels).names
        if not {*names, UNNAMED} & set(found):
            some = [", ".join(map(printable, list(some)[:3])) for some in (found, names)]
            raise ValueError(f"{truth} has masks of {some[0]}, but the classes are {some[1]}; rename the true masks")


def _network(config: PipelineConfig, progress: Progress | None) -> Model:
    cfg = config.segment
    with _setting("segment.weights"):
        weights = None if cfg.weights is None else local_path(cfg.weights, progress=progress)
        if weights is not None and not weights.exists():
            raise ValueError(f"{weights}: no such file or folder")
        name, place = choose_model(cfg.model, weights)
    with _setting("segment.classes"):
        check_classes(cfg.classes, name, place, groups=cfg.groups)
    with _setting("segment.weights"):
        return load(name, place, progress=progress)


def _options(config: PipelineConfig, model: Model, devices: Sequence[jax.Device] | None) -> dict[str, Any]:
    """Returns the options that the Segmenters of both stages share."""
    cfg = config.segment
    names = ("threshold", "classes", "preprocessing", "intensity", "groups", "check_orientation", "batch_size")
    found = {name: getattr(cfg, name) for name in names}
    return found | {"devices": devices, "reference": find_reference(cfg.weights) if cfg.weights else None}


def _class_names(config: PipelineConfig, model: Model) -> list[str]:
    """Returns the names of the classes that are segmented."""
    cfg, known = config.segment, model.card.class_names
    with _setting("segment.classes"):
        return [known[k] for k in labels.select(known, cfg.classes, groups=cfg.groups)]


def _confidence(config: PipelineConfig, restoring: Postprocess | None) -> dict[str, Any]:
    """Returns the options of the Segmenter of the stage segment that the other one does not have."""
    cfg = config.confidence
    found: dict[str, Any] = {"mean_probabilities": config.segment.output_type in cohort.TYPES}
    if cfg is not None:
        found |= {"confidence": True, "tta": cfg.tta, "shape_check": restoring if cfg.shape_check else None}
    return found


def _restoring(
    config: PipelineConfig,
    model: Model | None,
    names: Sequence[str],
    devices: Sequence[jax.Device] | None,
    progress: Progress | None,
) -> Postprocess | None:
    """Returns what restores masks with these names; None without the section."""
    cfg = config.restore
    if cfg is None:
        return None
    with _setting("restore.weights"):
        options = {name: getattr(cfg, name) for name in ("threshold", "largest_component", "union")}
        found = Denoiser(model or load(cfg.weights, progress=progress), devices=devices, **options)
    with _setting("restore.classes"):
        return found.postprocess_for(names, cfg.classes)


def _check_names(config: PipelineConfig, names: Sequence[str]) -> None:
    """Raises a ValueError if a later stage needs features or classes that are unknown or were not segmented."""
    for section in ("measure", "report"):
        if (cfg := getattr(config, section)) is not None:
            with _setting(f"{section}.features"):
                features = find_all(cfg.features, groups=config.segment.groups)
                if section == "measure":
                    needed_classes(features, names)
    for section in ("compare", "report"):
        if (cfg := getattr(config, section)) is not None:
            with _setting(f"{section}.classes"):
                select(names, cfg.classes)
