"""The command `jaxseg`: collects the commands, and turns every error into one line and an exit code."""

import logging
import sys

import click

from jaxseg import __version__
from jaxseg.cli.convert import convert
from jaxseg.cli.demo import demo
from jaxseg.cli.models import models
from jaxseg.cli.segment import segment


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="jaxseg")
def cli():
    """Medical image segmentation in JAX.

    Exit codes: 0 all done, 1 something failed, 2 the command line is wrong. Not for clinical use.
    """


for command in (segment, convert, models, demo):
    command.params.append(click.Option(["--debug"], is_flag=True, expose_value=False, help="Show tracebacks."))
    command.context_settings["token_normalize_func"] = lambda name: name.replace("_", "-")
    cli.add_command(command)


def main(args: list[str] | None = None) -> None:
    """Runs the command line and exits with 0, 1 or 2."""
    args = sys.argv[1:] if args is None else args
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        sys.exit(cli.main(args, prog_name="jaxseg", standalone_mode=False) or 0)
    except Exception as error:
        if "--debug" in args:
            raise
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Prints an error on stderr and returns the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return 2
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "jaxseg"
        click.echo(f"Error: {error.format_message()} ('{where} --help' explains)", err=True)
        return 2
    if isinstance(error, click.Abort):
        click.echo("Stopped.", err=True)
        return 1
    if isinstance(error, click.ClickException):
        click.echo(f"Error: {error.format_message()}", err=True)
    elif isinstance(error, OSError) and error.filename:
        click.echo(f"Error: {error.filename}: {error.strerror}", err=True)
    elif isinstance(error, (ValueError, OSError)):
        click.echo(f"Error: {error}", err=True)
    else:
        click.echo(f"Error: {type(error).__name__}: {error} (--debug shows where)", err=True)
    return 1
