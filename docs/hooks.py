"""Hooks of mkdocs: files of the repository become pages, and four references are generated from the code.

Links in Markdown files are written relative to the repository, so that they also work on a code host. Pages that lie
outside docs/ are added under their own path, and a link that leaves docs/ is turned into the link to that page.
"""

import dataclasses
import inspect
import re
import sys
import typing
from pathlib import Path

import click
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the references show the code of this clone

import jaxseg  # noqa: E402
from jaxseg.cli.main import cli as commands  # noqa: E402
from jaxseg.pipeline.config import STAGES, PipelineConfig  # noqa: E402
from jaxseg.registry import TASKS  # noqa: E402
from jaxseg.settings import to_mapping  # noqa: E402
from jaxseg.training.config.sections import OptimizerConfig, ScheduleConfig, TrainerConfig  # noqa: E402
from jaxseg.training.task import task_class  # noqa: E402

PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md", "examples/README.md")
FOLDERS = ("benchmarks/results/*.json", "benchmarks/results/*.png", "configs/*.yaml", "examples/*.ipynb")
FOLDERS += ("examples/*.py",)
# Methods that the reference shows, by public class.
MEMBERS = {"Segmentation": ("masks", "probabilities", "mask", "save", "to_pandas", "overlay", "measure")}
OTHERS = ("NOTICE", "LICENSE", "CITATION.cff")


def on_files(files, config):
    """Adds the pages and pictures that lie outside docs/."""
    found = [ROOT / page for page in (*PAGES, *OTHERS)] + [path for glob in FOLDERS for path in ROOT.glob(glob)]
    for path in found:
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Redirects links between docs/ and the rest, and fills in what is generated from the code."""
    name = page.file.src_uri
    depth = name.count("/")
    if name in PAGES:
        markdown = re.sub(rf"\]\({'../' * depth}docs/", f"]({'../' * depth}", markdown)
    else:
        markdown = markdown.replace(f"]({'../' * (depth + 1)}", f"]({'../' * depth}")
    for marker, text in {"cli": cli, "public": public, "settings": settings, "pipeline": pipeline}.items():
        if f"<!-- {marker} -->" in markdown:
            markdown = markdown.replace(f"<!-- {marker} -->", text())
    return markdown


def public() -> str:
    """Returns the directives that show every public name of jaxseg from its docstring."""
    lines = []
    for name in sorted(jaxseg.__all__, key=str.lower):
        if name.startswith("__"):
            continue
        thing = getattr(jaxseg, name)
        lines += [f"::: {thing.__module__}.{thing.__qualname__}", "    options:", f'      heading: "jaxseg.{name}"']
        methods = MEMBERS.get(name, ())
        lines += [f'      toc_label: "{name}"', *([f"      members: [{', '.join(methods)}]"] if methods else []), ""]
    return "\n".join(lines)


def cli() -> str:
    """Returns the help of every command as Markdown, with one table of options each."""
    context = click.Context(commands, info_name="jaxseg")
    return "\n".join(_command(commands, context, "jaxseg"))


def _command(command: click.Command, context: click.Context, name: str) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    text = inspect.cleandoc(command.help or "").replace("\b\n", "").replace("][", r"]\[")  # not a link of Markdown
    lines = [f"## {name}", "", *text.splitlines(), ""]
    lines += ["```text", f"{name} {usage}", "```", ""]
    options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    options = [option for option in options if not {"--help", "--debug"} & set(option.opts)]
    options = [option.get_help_record(context) for option in options if not option.hidden]
    if options:
        lines += ["| option | meaning |", "|---|---|"]
        lines += [f"| `{names}` | {_cell(text)} |" for names, text in options] + [""]
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            lines += _command(found, click.Context(found, info_name=child, parent=context), f"{name} {child}")
    return lines


def settings() -> str:
    """Returns a table of the settings of every section of every task."""
    shared = {"optimizer": OptimizerConfig, "schedule": ScheduleConfig, "trainer": TrainerConfig}
    lines = ["## Sections of every task", ""]
    for name, section in shared.items():
        lines += _section(name, section)
    for task in TASKS:
        found, doc = task_class(task), inspect.getdoc(task_class(task)) or ""
        lines += [f"## Task `{task}`", "", doc.split("\n\n")[0], ""]
        for name, section in {"data": found.Data, "model": found.Model, "loss": found.Loss}.items():
            lines += _section(name, section, task)
    return "\n".join(lines)


def pipeline() -> str:
    """Returns a table of the settings of every section of a pipeline."""
    hints, lines = typing.get_type_hints(PipelineConfig), []
    for name in STAGES:  # a section is a dataclass, or X | None
        lines += _section(name, next(iter(typing.get_args(hints[name])), hints[name]), "pipeline")
    return "\n".join(lines)


def _section(name: str, section: type, task: str = "") -> list[str]:
    own = section.__dict__.get("__annotations__", {})
    fields = sorted((f for f in dataclasses.fields(section) if f.init), key=lambda field: field.name not in own)
    heading = f"### `{name}`" + (f" {{#{task}-{name}}}" if task else f" {{#{name}}}")
    if not fields:
        return [heading, "", "This section has no settings.", ""]
    hints, documented = typing.get_type_hints(section, include_extras=True), _documented(section)
    lines = [heading, "", "| setting | type | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        row = (f"`{field.name}`", _type(hints[field.name]), _default(field), documented.get(field.name, ""))
        lines.append("| " + " | ".join(map(_cell, row)) + " |")
    return [*lines, ""]


def _documented(section: type) -> dict[str, str]:
    """Returns the descriptions in the "Attributes" of a dataclass and of those that it extends."""
    found = {}
    for cls in reversed(section.__mro__):
        text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
        attributes = re.search(r"^Attributes:\n((?:^ .*\n?|^\n)+)", text, re.M)
        if attributes:
            for names, meaning in re.findall(r"^  (\w[\w, ]*): (.*(?:\n   .*)*)", attributes[1], re.M):
                found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


def _type(hint) -> str:
    """Returns a type hint in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return f"{_type(arguments[0])} {arguments[1]}".replace("int from", "whole number from")
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if dataclasses.is_dataclass(hint):
        return "group: " + ", ".join(f"`{field.name}`" for field in dataclasses.fields(hint))
    if arguments:  # X | None
        return " or ".join("null" if argument is type(None) else _type(argument) for argument in arguments)
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}[hint]


def _default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "required"
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    value = to_mapping(value)
    if isinstance(value, dict):
        return ", ".join(f"`{key}: {_yaml(item)}`" for key, item in value.items())
    return f"`{_yaml(value)}`"


def _yaml(value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    """Returns a text that fits in a cell: one line, with what Markdown would take for HTML escaped outside code."""
    parts = " ".join(text.split()).split("`")
    parts[::2] = [
        re.sub(r"([\[\]*_])", r"\\\1", part).replace("|", "&#124;").replace("<", "&lt;") for part in parts[::2]
    ]
    return "`".join(parts)
