"""The frame of a page: one HTML file with its style, its script and its data, which needs no network.

Text from files is stored in blocks of JSON. The script shows it as text, so that a name is never parsed as HTML.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import os
import string
import urllib.parse
from pathlib import Path

from jaxseg import __version__

GENERATOR = '<meta name="generator" content="jaxseg '  # in the first bytes of every page
_HEAD = 512  # number of these bytes


def frame(title: str) -> tuple[str, str]:
    """Returns the parts of a page before and after its data; `title` is the title of the page."""
    style, script = (_part(f"shared.{kind}") + _part(f"page.{kind}") for kind in ("css", "js"))
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    values = {"title": html.escape(title), "policy": html.escape(policy), "style": style, "script": script}
    whole = string.Template(_part("page.html")).substitute(values, generator=GENERATOR + __version__ + '">')
    before, after = whole.split("<!-- data -->")
    return before, after


def block(content: dict | list, **attributes: str | int) -> str:
    """Returns data as a script element of JSON.

    Args:
      content: the data; numbers must be finite.
      **attributes: attributes of the element; a trailing "_" is removed, as in `class_`.

    Returns:
      ASCII text; the data in it has no characters with a meaning in HTML.

    Raises:
      ValueError: a number is not finite.
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    named = "".join(f' {name.rstrip("_")}="{html.escape(str(value))}"' for name, value in attributes.items())
    return f'<script type="application/json"{named}>{text}</script>\n'


def link(target: Path, page: Path) -> str:
    """Returns the address with which a page links to a file or folder, relative if possible.

    A relative address starts with "./" or "../", so that a file name is never read as a scheme such as "javascript:".

    Args:
      target: the file or folder.
      page: the file of the page.
    """
    here, there = os.path.abspath(page.parent), os.path.abspath(target)  # symbolic links are not resolved
    try:
        relative = os.path.relpath(there, here)
    except ValueError:  # on Windows, another drive
        return Path(there).as_uri()
    quoted = urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))
    return quoted if quoted == ".." or quoted.startswith("../") else f"./{quoted}"


def is_report(path: Path) -> bool:
    """Returns whether a file is a page that jaxseg wrote.

    Raises:
      OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return GENERATOR.encode("ascii") in file.read(_HEAD)


def _part(name: str) -> str:
    return importlib.resources.files("jaxseg.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Returns the hash by which a content security policy allows only this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
