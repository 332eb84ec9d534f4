"""Options that several commands share, and errors in the command line."""

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import click
from click.core import ParameterSource

from jaxseg import programs
from jaxseg.weights.hub import is_address

OUTPUT_TYPES = ("json", "npy", "npz", "jpg", "png", "dicom-seg", "coco-lines", "parquet")
JOINT_TYPES = ("coco-lines", "parquet")  # one file holds the masks of all images
PREPROCESSING = ("cxas", "paxray", "paxray_folder", "cxas_pad", "cxas_crop", "paxray_pad", "paxray_crop")
INTENSITIES = ("original", "cxas-0.0.20", "clinical")
FIDELITIES = ("original", "better")

_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


class ExistingPath(click.Path):
    """A path that must exist; the error says what is allowed.

    Args:
      what: the kinds of files and folders that are allowed, for the error.
      names: texts, in lower case, that are returned unchanged because they are names and not paths.
      hub: whether addresses on the Hugging Face Hub are allowed, too; they are returned unchanged.
    """

    def __init__(self, what: str, names: Collection[str] = (), *, hub: bool = False):
        super().__init__(path_type=Path)
        self.what, self.names, self.hub = what, names, hub

    def convert(self, value, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        if self.hub and is_address(value):
            return str(value)
        path = super().convert(value, param, ctx)
        if str(path).lower() in self.names:
            return path
        path = path.expanduser()
        if not path.exists():
            self.fail(f"{path}: no such file or folder; name {self.what}", param, ctx)
        return path


class RenamedOption(click.Option):
    """An option whose earlier names still work, but are not shown.

    Args:
      earlier: the earlier names, such as ("--format",).
    """

    def __init__(self, *args, earlier: tuple[str, ...], **settings):
        super().__init__(*args, **settings)
        self.earlier = earlier

    def add_to_parser(self, parser, ctx: click.Context) -> None:
        shown = self.opts
        self.opts = [*shown, *self.earlier]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


def source(what: str, *, existing_file: bool = False) -> Callable:
    """Returns the option `-i/--input`; `what` is its help text."""
    path = _FILE if existing_file else _PATH
    return click.option("-i", "--input", "source", required=True, type=path, help=what)


def output(what: str, *, file: bool = False) -> Callable:
    """Returns the option `-o/--output`, a folder, or with `file` a file; `what` is its help text."""
    path = click.Path(path_type=Path, file_okay=file, dir_okay=not file)
    return click.option("-o", "--output", required=True, type=path, help=what)


def output_type(
    types: tuple[str, ...], what: str, *, default: str | None = None, earlier: tuple[str, ...] = ()
) -> Callable:
    """Returns the option `-ot/--output_type`; `what` is its help text, `earlier` are names that it had."""
    settings = {"type": click.Choice(types), "default": default, "show_default": default is not None, "help": what}
    return click.option("-ot", "--output_type", cls=RenamedOption, earlier=earlier, **settings)


def combined(*decorators: Callable) -> Callable:
    """Returns one decorator that adds several options."""

    def decorate(command: Callable) -> Callable:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def model(default: str) -> Callable:
    """Returns the option `-m/--model`; `default` says which model it is otherwise."""
    return click.option("-m", "--model", help=f"Name of the model; `jaxseg models` lists them.  [default: {default}]")


def data(what: str) -> Callable:
    """Returns the option `-i/--input` for the data of a training; `what` completes its help text."""
    return click.option("-i", "--input", "data", type=_PATH, help=f"Folder of the data, {what}.")


def training_output(what: str) -> Callable:
    """Returns the option `-o/--output` for the folder of a training; `what` is its help text."""
    path = click.Path(path_type=Path, file_okay=False)
    return click.option("-o", "--output", "folder", type=path, help=what)


def trained_kinds(suffix: str) -> str:
    """Returns the kinds of weights that a user has trained, for texts; `suffix` is that of a PyTorch file."""
    return f"a training run, a model directory, a {suffix} or .safetensors file, or hf://owner/name[@revision][/file]"


def trained_weights(suffix: str) -> Callable:
    """Returns a required option `--weights` for models that are trained by the user; `suffix` is that of a file."""
    kinds = trained_kinds(suffix)
    return click.option("--weights", required=True, type=ExistingPath(kinds, hub=True), help=f"Model to use: {kinds}.")


def batch_size(default: str, what: str = "images") -> Callable:
    """Returns the option `--batch-size`; `default` describes what applies without it."""
    text = f"Number of {what} in one call of the network.  [default: {default}]"
    return click.option("--batch-size", type=click.IntRange(1), help=text)


def threshold(of: str) -> Callable:
    """Returns the option `--threshold`; `of` says what is compared with it."""
    text = f"A pixel belongs to a {of} exceeds this."
    return click.option("--threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True, help=text)


def overwrite(what: str) -> Callable:
    """Returns the option `--overwrite`; `what` names what is processed."""
    text = f"Process {what} again whose results exist, and replace results of other settings."
    return click.option("--overwrite", is_flag=True, help=text)


def replace(what: str) -> Callable:
    """Returns the option `--overwrite` of a command with one result; `what` names the result that it replaces."""
    return click.option("--overwrite", is_flag=True, help=f"Replace {what}.")


def seed(what: str, *, default: int | None = 0) -> Callable:
    """Returns the option `--seed`; `what` completes its help text."""
    number, shown = click.IntRange(0, 2**32 - 1), default is not None
    return click.option("--seed", type=number, default=default, show_default=shown, help=f"Random seed{what}")


def embeddings(use: str) -> Callable:
    """Returns the option `--embeddings`; `use` says for which model."""
    kinds = "label_embedding.pkl of the original project, or an .npz or .npy file"
    return click.option("--embeddings", type=ExistingPath(kinds), help=f"Text embeddings {use}: {kinds}.")


def preview(name: str, what: str) -> Callable:
    """Returns the option `--preview`; `what` says what is shown in `<name>.preview.jpg`."""
    return click.option("--preview", is_flag=True, help=f"Also write <{name}>.preview.jpg: {what}.")


configuration = click.option(
    "-t",
    "--config",
    "source",
    help="Configuration of the training: a YAML file, or the name of a packaged one, such as paxray or demo.",
)
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting of the configuration, such as trainer.epochs=2; repeat it for more settings.",
)
recursive = click.option("--recursive", is_flag=True, help="Also search sub-folders; the output mirrors them.")


def _keep_programs(context: click.Context, _option: click.Parameter, value: bool | None, *, usual: bool) -> None:
    """Chooses whether JAX keeps compiled programs; JAX reads that when it is imported, after the options are known.

    click calls this after it has read the options that were given, so that `--dtype` is known.
    """
    if context.resilient_parsing or (value is None and programs.VARIABLE in os.environ):
        return
    keep = value if value is not None else usual and context.params.get("dtype") != "bfloat16"
    if keep:
        programs.keep()
    else:
        programs.keep_none()


def _cache(usual: bool, why: str) -> Callable:
    """Returns the options `--cache` and `--no-cache`; `usual` is their default, and `why` says why in the help."""
    return click.option(
        "--cache/--no-cache",
        default=None,
        expose_value=False,
        callback=functools.partial(_keep_programs, usual=usual),
        help="Keep compiled programs, so that the next start is faster, in the folder that JAX_COMPILATION_CACHE_DIR "
        f"names, or in the user's cache folder. On CPUs, kept programs run without oneDNN. {why}",
    )


# Every command that computes has one of these three.
_FEW, _MANY = "[default: --cache; --no-cache with --dtype bfloat16]", "[default: --no-cache]"
_gpus = click.option(
    "-g",
    "--gpus",
    default="auto",
    show_default=True,
    metavar="DEVICES",
    help="Devices: auto (the first accelerator, otherwise the CPU), cpu, gpu, tpu, or indices such as 0 or 0,1, "
    "over which each batch is spread. The default of the original, 0, fails without a GPU.",
)
gpus = combined(_gpus, _cache(True, _FEW))
gpus_uncached = combined(_gpus, _cache(False, _MANY))  # of commands that gain more from oneDNN
training_gpus = combined(
    click.option(
        "-g",
        "--gpus",
        default="all",
        show_default=True,
        metavar="DEVICES",
        help="Devices over which each batch is spread: all (every device of the kind that JAX prefers, on all hosts), "
        "cpu, gpu, tpu, or indices such as 0,1.",
    ),
    _cache(False, _MANY),
)
KINDS = "a training run, a model directory, a PyTorch or .safetensors file, or hf://owner/name[@revision][/file]"


def _weights(more: str = "", **settings) -> Callable:
    """Returns the option `--weights`; `more` is added to its help text."""
    default = "[default: the published weights, from the caches or downloaded once]"
    text = f"Weights to use: {KINDS}.{more}  {default}"
    return click.option("--weights", type=ExistingPath(KINDS, hub=True), help=text, **settings)


weights = _weights()
dtype = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    help="Arithmetic of the network. bfloat16 is for accelerators and processors with AMX; it changes masks at "
    "their edges.  [default: that of the model]",
)
labels = click.option(
    "--labels",
    "labels_file",
    type=_FILE,
    help="JSON file with the class names (such as paxray.json), if the weights or masks do not contain them.",
)
intensity = click.option(
    "--intensity",
    type=click.Choice(INTENSITIES),
    default="original",
    show_default=True,
    help="How images are read. original: as CXAS up to 0.0.16 and the training of its weights (DICOM by its full range "
    "without window, 16-bit images clipped at 255). cxas-0.0.20: as that version of CXAS (DICOM with its first look-up "
    "table or window; others as original). clinical: as a viewer shows them (DICOM with its window or look-up table, "
    "padding black, colour converted to grey; 16-bit images by their range; photos upright).",
)
any_modality = click.option(
    "--any-modality",
    is_flag=True,
    help="Do not warn of DICOM files that are no projection X-rays, such as CT and MR.",
)


shown_intensity = click.option(
    "--intensity",
    type=click.Choice(INTENSITIES),
    default="clinical",
    show_default=True,
    help="How grey values are shown. clinical: as a viewer does. original, cxas-0.0.20: as the network saw them.",
)
sides = click.option(
    "--sides/--no-sides",
    default=True,
    show_default=True,
    help="Mark the patient's right and left; correct for frontal pictures that are not mirrored.",
)


def fidelity(**choices: tuple) -> Callable:
    """Returns a decorator that adds `--fidelity original|better`, which chooses several options at once.

    Options that the user gives win. Without `--fidelity` the options keep their own defaults. It must be above the
    decorators of the options that it chooses.

    Args:
      **choices: name of a parameter of the command -> its values for (original, better).
    """
    *first, last = (f"--{name.replace('_', '-')}" for name in choices)
    names = f"{', '.join(first)} and {last}" if first else last
    text = (
        f"Work as the original project does, or better where possible: chooses {names} unless given explicitly. "
        "Without --fidelity, each option keeps its own default."
    )

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def chosen(*args, fidelity: str | None = None, **settings):
            context = click.get_current_context()
            for name, values in choices.items() if fidelity else ():
                if context.get_parameter_source(name) is ParameterSource.DEFAULT:
                    settings[name] = values[FIDELITIES.index(fidelity)]
            return command(*args, **settings)

        return click.option("--fidelity", type=click.Choice(FIDELITIES), help=text)(chosen)

    return decorate


def _network(which_weights: Callable) -> Callable:
    """Returns the decorator that adds the options of a network; `which_weights` is its option `--weights`."""
    return combined(
        gpus,
        model("that of the model directory, otherwise UNet_ResNet50_default"),
        which_weights,
        labels,
        batch_size("one per device"),
        threshold("class if its sigmoid"),
        click.option(
            "--preprocessing",
            type=click.Choice(PREPROCESSING),
            help="How images become the network's input.  [default: as in the training of the weights]",
        ),
        intensity,
        any_modality,
        dtype,
    )


of_network = _network(weights)
_of_folder = combined(
    output("Folder of the results."),
    output_type(
        OUTPUT_TYPES,
        "Format of the masks. png/jpg: one folder per image with one file per class; npy/npz: (classes, H, W) bool; "
        "json: COCO with run lengths; dicom-seg: one DICOM SEG per image, with one segment per non-empty class; "
        "coco-lines/parquet: one file for all images, masks.jsonl or masks.parquet, with run lengths and the mean "
        "probability in each mask.  [default: png; npy for -m paxray]",
    ),
    click.option("--labelmap", is_flag=True, help="With -ot dicom-seg: write one label map; classes must not overlap."),
    click.option(
        "--strict-projection",
        is_flag=True,
        help="With -ot dicom-seg: write no geometry for X-rays, which are projections; many viewers need one.",
    ),
    preview("image", "the masks over the image"),
    click.option(
        "--recursive",
        is_flag=True,
        help="Also search sub-folders, such as those of a DICOMDIR; the output mirrors them.",
    ),
    overwrite("images"),
    click.option(
        "--merged/--no-merged",
        default=True,
        show_default=True,
        help="Whether to write the files that are made from all images: the table of `jaxseg extract`, confidence.csv, "
        "and with -ot json one COCO file for a folder.",
    ),
    click.option(
        "--report",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write versions, devices, hashes and the seconds per file to this JSON file.",
    ),
)
of_images = combined(_of_folder, of_network)
_SEVERAL = " Repeat it to segment by the mean of the probabilities of several models, which turns --confidence on."
of_images_and_models = combined(_of_folder, _network(_weights(_SEVERAL, multiple=True)))


def of_extraction(required: bool) -> Callable[[Callable], Callable]:
    """Returns the decorator that adds the options of measuring."""
    return combined(
        click.option(
            "-f",
            "--feature",
            "features",
            multiple=True,
            required=required,
            help="What to measure; repeat it or separate by commas: CTR (Cardio-Thoracic Ratio), SCD (Spine-Center "
            "Distance), area, perimeter, compactness, centroid, box, convexity.",
        ),
        click.option("-s", "--store_seg", is_flag=True, help="Also write the masks."),
        click.option("--draw", is_flag=True, help="Also write <image>.lines.jpg: the measured lines over the image."),
        click.option(
            "--original-values",
            is_flag=True,
            help="Write the original's -1 (and boxes of 0) if something cannot be measured, not an empty cell.",
        ),
    )


of_denoising = combined(
    click.option(
        "--union",
        is_flag=True,
        help="Restore the classes as one mask, and assign each pixel of the result to the nearest class. For a model "
        "that was trained on all of them together, such as both lungs.",
    ),
    click.option(
        "--largest-component",
        type=click.IntRange(1),
        help="Keep only the N largest connected components of a restored mask.  [default: all]",
        metavar="N",
    ),
)


@contextlib.contextmanager
def usage_errors(option: str = "") -> Iterator[None]:
    """Turns a ValueError or the error of a missing path into a usage error (exit code 2).

    Args:
      option: the one option that the message begins with; empty: the message itself says what is wrong, such as the
        path of a file.
    """
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        raise click.UsageError(f"{option}: {text}" if option else text) from None


def class_names(labels_file: Path | None) -> tuple[str, ...] | None:
    """Returns the class names in the file of `--labels`; None without a file.

    Raises:
      click.UsageError: the file holds no class names.
    """
    from jaxseg.vocabulary.labels import read_names

    with usage_errors("--labels"):
        return read_names(labels_file) if labels_file else None
