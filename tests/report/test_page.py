"""The frame of a page is safe: text from files stays text, and nothing is loaded from elsewhere."""

import base64
import hashlib
import os
import re
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_kit import Blocks

from jaxseg.report.page import block, frame, is_report, link

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "&lt;b&gt;",
    '"onmouseover="alert(1)',
    "\u2028\ud800",
    "$title",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_can_end_its_block(text):
    written = block({"name": text}, class_="record")
    body = written[written.index(">") + 1 : written.rindex("<")]
    assert not set("<>&") & set(body)
    assert written.isascii()
    assert Blocks(written).records == [{"name": text}]


@given(st.recursive(st.text() | st.integers() | st.booleans(), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
@settings(max_examples=80, deadline=None)
def test_a_block_is_read_as_it_was_written(content):
    assert Blocks(block([content], class_="record")).records == [[content]]


def test_numbers_that_are_not_in_json_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        block({"value": float("nan")})


@pytest.mark.parametrize("text", HOSTILE[:-2])
def test_the_title_stays_text(text):
    before, _ = frame(text)
    parsed = Blocks(before)
    assert [tag for tag, _ in parsed.tags].count("script") == 0
    assert before.count("</title>") == 1


def test_the_policy_allows_only_the_script_and_style_of_the_page():
    page = "".join(frame("x"))
    policy = next(a["content"] for tag, a in Blocks(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_the_page_loads_no_other_file():
    page = "".join(frame("x"))
    assert re.findall(r"https?://[^\"' ]+", page) == ["http://www.w3.org/2000/svg"]  # a name, not an address
    assert not [a for tag, a in Blocks(page).tags if {"src", "href", "action", "style"} & set(a)]
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|eval|fetch|document\.write)\b", page)
    assert "@import" not in page
    assert "url(" not in page


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(names.filter(lambda name: name not in (".", "..")))
@settings(max_examples=150, deadline=None)
def test_a_link_leads_to_its_file_and_has_no_scheme(name):
    page = Path("folder") / "report.html"
    for target in (Path("folder") / name, Path("images") / name, Path("folder") / "masks" / name):
        address = link(target, page)
        parts = urllib.parse.urlsplit(address)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
        assert address.startswith(("./", "../"))
        assert address.isascii()
        assert not set("<>\"'& ") & set(address)
        place = os.path.normpath(page.parent / urllib.parse.unquote(address))
        assert os.path.abspath(place) == os.path.abspath(target)


def test_a_name_that_looks_like_a_script_is_linked_as_a_file():
    assert link(Path("javascript:alert(1)"), Path("report.html")) == "./javascript%3Aalert%281%29"
    assert link(Path(".."), Path("report.html")) == ".."
    assert link(Path("."), Path("report.html")) == "./."


def test_a_name_that_is_not_utf_8_is_linked_by_its_bytes():
    assert link(Path(os.fsdecode(b"a\xffb.png")), Path("report.html")) == "./a%FFb.png"


def test_reports_are_recognised_by_their_first_bytes(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("".join(frame("x" * 5000)))
    assert is_report(page)
    page.write_text("<!doctype html><p>" + "x" * 600 + '<meta name="generator" content="jaxseg 1">')
    assert not is_report(page)
