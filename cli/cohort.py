"""The options of commands that share many files among processes or machines: `--part` and `--files`."""

import os
from collections.abc import Callable
from pathlib import Path

import click

from jaxseg.cli import console, options


def of_cohort(what: str, *, where: str = "--input") -> Callable:
    """Returns the options `--part` and `--files`.

    Args:
      what: name of the files, such as "images".
      where: the option that names the folder of the files.
    """
    return options.combined(
        click.option(
            "--part",
            metavar="I/N",
            callback=_parsed,
            help=f"Process only part I of N of the {what}, so that N processes or machines share them; `jaxseg merge` "
            "joins the results. none: all.  [default: the task of a Slurm job array, otherwise none]",
        ),
        click.option(
            "--files",
            "listed",
            metavar="LIST",
            type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
            help=f"Text file with the {what} to process, one path per line, or - for standard input. Paths are "
            f"relative to {where} if that is given, otherwise to the current folder.",
        ),
    )


def source(what: str) -> Callable:
    """Returns the option `-i/--input` of a command that also has `--files`; `what` is its help text."""
    path = click.Path(path_type=Path)
    return click.option("-i", "--input", "source", type=path, help=f"{what}  [required without --files]")


def find_files(source: Path | None, listed: Path | None, find: Callable[[Path], list[Path]]) -> tuple[Path, list[Path]]:
    """Returns the input of a command, a file or a folder, and the files to process.

    Args:
      source: value of `--input`.
      listed: value of `--files`.
      find: a path -> the files that it means.

    Raises:
      click.UsageError: there are none, or the options do not fit.
    """
    if listed is None:
        if source is None:
            raise click.MissingParameter(param_hint="'-i' / '--input'", param_type="option")
        with options.usage_errors("--input"):
            return source, find(source)
    root = source or Path()
    if not root.is_dir():
        raise click.UsageError(f"--input: {root} is not a folder; with --files it is the folder of relative paths")
    return root, read_list(listed, root)


def read_list(listed: Path, root: Path) -> list[Path]:
    """Returns the paths in the list of `--files`, sorted, each once.

    Raises:
      click.UsageError: the list names no file, or is not a list of paths.
    """
    from jaxseg.files import read_most
    from jaxseg.folder_runs.inputs import MAX_LIST, parse_list

    with options.usage_errors("--files"), click.open_file(str(listed), "rb") as file:
        return parse_list(read_most(file, MAX_LIST), root)


def part_of(part, *, many: bool):
    """Returns the part of a command, and says so if it is that of a Slurm task; None means all files.

    Args:
      part: value of `--part`: a `Part`, None with `--part none`, or "" without the option.
      many: whether the input can have several files; Slurm's variables do not divide a single file.
    """
    from jaxseg.folder_runs.parts import Part

    if part != "":
        return part
    with options.usage_errors("--part"):
        found = Part.from_slurm(os.environ) if many else None
    if found is not None:
        console.say(f"part {found}, as this is a task of a Slurm job array (--part none processes all files)")
    return found


def _parsed(_context: click.Context, _option: click.Parameter, text: str | None):
    """Returns the value of `--part`: a `Part`, None for "none", or "" without the option."""
    from jaxseg.folder_runs.parts import Part

    if text is None:
        return ""
    if text.strip().lower() == "none":
        return None
    try:
        return Part.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
