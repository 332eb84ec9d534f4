"""The frame of the page: one HTML file with its style, its program and its data; the network is asked for nothing.

Texts from files go into blocks of JSON, which the page's program shows as text: a name can be no HTML.
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
_HEAD = 512


def frame(title: str) -> tuple[str, str]:
    """Returns what stands before the data of a page and what stands behind it."""
    style, script = _part("page.css"), _part("page.js")
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
    """Returns data as a block of JSON with these attributes; in ASCII, and without a character that HTML knows."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    named = "".join(f' {name.rstrip("_")}="{html.escape(str(value))}"' for name, value in attributes.items())
    return f'<script type="application/json"{named}>{text}</script>\n'


def link(target: Path, page: Path) -> str:
    """Returns the address of a file or folder as a page links to it: relative where possible.

    A relative address starts with "./" or "../", so that no file name is taken for a scheme such as "javascript:".
    """
    here, there = os.path.abspath(page.parent), os.path.abspath(target)  # links are kept
    try:
        relative = os.path.relpath(there, here)
    except ValueError:  # another drive of Windows
        return Path(there).as_uri()
    quoted = urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))
    return quoted if quoted == ".." or quoted.startswith("../") else f"./{quoted}"


def is_report(path: Path) -> bool:
    """Returns whether a file is a page that jaxseg wrote.

    Raises:
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return GENERATOR.encode("ascii") in file.read(_HEAD)


def _part(name: str) -> str:
    return importlib.resources.files("jaxseg.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """The name by which a content security policy allows this text and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
