"""The command `jaxseg`: it collects the commands, and turns every error into one line and an exit code."""

import atexit
import gc
import signal
import sys
import threading

import click

from jaxseg import __version__
from jaxseg.cli import console
from jaxseg.cli.compare import compare
from jaxseg.cli.convert import convert
from jaxseg.cli.cxas import cxas
from jaxseg.cli.demo import demo
from jaxseg.cli.denoise import denoise
from jaxseg.cli.download import download
from jaxseg.cli.errors import Stopped
from jaxseg.cli.evaluate import evaluate
from jaxseg.cli.export import export
from jaxseg.cli.extract import extract
from jaxseg.cli.headings import grouped, write_commands
from jaxseg.cli.merge import merge
from jaxseg.cli.models import models
from jaxseg.cli.pacs import pacs
from jaxseg.cli.pipeline import pipeline
from jaxseg.cli.prepare import prepare
from jaxseg.cli.register import register
from jaxseg.cli.report import report
from jaxseg.cli.sample import sample
from jaxseg.cli.score import score
from jaxseg.cli.segment import segment
from jaxseg.cli.serve import serve
from jaxseg.cli.show import show
from jaxseg.cli.train import train
from jaxseg.cli.tune import tune
from jaxseg.xla import restart_with_huge_pages, use_all_cores

MAX_LINES = 20  # of one error

# Heading of `jaxseg --help` -> commands, the most used first.
COMMANDS = {
    "Use": (segment, extract, register, denoise, score, compare, pipeline, sample, serve, pacs, merge, cxas),
    "Train": (train, tune, evaluate, prepare),
    "Tools": (demo, models, show, report, download, convert, export),
}


class Commands(click.Group):
    """A group that lists its commands by job, with their whole summaries."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, commands in COMMANDS.items():
            write_commands(formatter, f"{heading} (commands)", commands)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="jaxseg")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def cli():
    """Medical image segmentation in JAX.

    Exit codes: 0 all done, 1 something failed, 2 the command line is wrong. Not for clinical use.
    """


for command in (command for commands in COMMANDS.values() for command in commands):
    for one in (command, *getattr(command, "commands", {}).values()):
        one.params.append(click.Option(["--debug"], is_flag=True, expose_value=False, help="Show tracebacks."))
        one.context_settings["token_normalize_func"] = lambda name: name.replace("_", "-")
        grouped(one)
    cli.add_command(command)


def main(args: list[str] | None = None) -> None:
    """Runs the command line and exits with 0, 1 or 2."""
    if args is None:
        atexit.register(gc.freeze)  # Python would look for garbage among all objects before it ends
        args = sys.argv[1:]
        command = next((word for word in args if not word.startswith("-")), "")
        if command in ("train", "tune") and not {"-h", "--help"} & {*args}:
            restart_with_huge_pages()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: no half-written file is left
    use_all_cores()
    console.take_over(debug="--debug" in args)
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
    if isinstance(error, click.Abort):
        console.say(f"Stopped. {error.hint}" if isinstance(error, Stopped) and error.hint else "Stopped.")
        return 1
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "jaxseg"
        _say_lines(_usage_text(error).rstrip(), hint=f"('{where} --help' explains)")
        return 2
    if isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    elif isinstance(error, (ValueError, OSError)):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {_one_line(str(error))} (--debug shows where)"
    _say_lines(text)
    return 1


def _usage_text(error: click.UsageError) -> str:
    """Returns the message of a usage error; one about the value of an option begins with "--option: "."""
    if not isinstance(error, click.BadParameter) or isinstance(error, click.MissingParameter) or error.param is None:
        return error.format_message()
    long = [name for name in error.param.opts if name.startswith("--")]
    name = long[0] if long else error.param.human_readable_name.upper()
    return f"{name}: {error.message.rstrip('.')}"


def _say_lines(text: str, hint: str = "") -> None:
    """Prints an error; the hint stands at its end, on the same line if the error has only one."""
    first, *lines = text.split("\n")
    more = [f"... and {len(lines) - MAX_LINES} more (--debug shows all)"] if len(lines) > MAX_LINES else []
    shown = [f"Error: {first}", *lines[:MAX_LINES], *more]
    if hint and lines:
        shown.append(hint)
    elif hint:
        shown[0] = f"{shown[0]} {hint}"
    console.say("\n".join(shown))


def _one_line(text: str) -> str:
    return " ".join(text.split())
