"""`jaxseg pacs`: workers that segment the X-rays of a PACS, and what they have done."""

import contextlib
import datetime
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.errors import resumable
from jaxseg.cli.runs import make_segmenter, of_anatomy

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_SHOWN = 20  # X-rays in a table of `jaxseg pacs status`
_MIB = 2**20


class _Duration(click.ParamType):
    """A time such as 30s, 5m or 1h, in seconds."""

    name = "time"

    def convert(self, value, param, ctx):
        if isinstance(value, (int, float)):
            return value
        found = re.fullmatch(r"(\d{1,6})(s|m|h|)", value.strip())
        if found is None or int(found[1]) == 0:
            self.fail(f"{value!r} is not a time; write 30s, 5m or 1h", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


class _Since(click.ParamType):
    """A number of days such as 7d, a date, or `all`, which is None."""

    name = "date"

    def convert(self, value, param, ctx):
        if not isinstance(value, str) or value == "all":
            return None if value == "all" else value
        if found := re.fullmatch(r"(\d{1,5})d", value.strip()):
            return int(found[1])
        try:
            return datetime.date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a date; write 7d (days), 2026-11-30 or all", param, ctx)


_state = click.option(
    "--state",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that remembers what was done with every X-ray. X-rays in work lie in a folder beside it.",
)
_of_worker = options.combined(
    _state,
    options.of_network,
    of_anatomy,
    click.option("--classes", help='Only these labels or groups, such as "heart, lung lobes, all vertebrae".'),
    click.option(
        "--secondary-capture", is_flag=True, help="Also store a picture of the masks over the X-ray, with a legend."
    ),
    click.option(
        "--report",
        is_flag=True,
        help="Also store a structured report (Comprehensive SR, TID 1500) with the cardio-thoracic ratio and the "
        "distance of the spine from a line, as far as they can be measured.",
    ),
    click.option(
        "--any-body-part", is_flag=True, help="Also segment X-rays whose BodyPartExamined is not near the chest."
    ),
    click.option(
        "--max-file-mb",
        type=click.IntRange(1, 4096),
        default=200,
        show_default=True,
        help="Largest file of an X-ray, in MiB.",
    ),
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def pacs():
    """Segment the X-rays of a PACS, and store the results in it."""


@pacs.command()
@click.option("--url", required=True, help="DICOMweb service of the PACS, such as http://127.0.0.1:8042/dicom-web.")
@_of_worker
@click.option("--once", is_flag=True, help="Work on everything that is there now, and end.")
@click.option(
    "--every", type=_Duration(), default="30s", show_default=True, help="Time between two looks for new studies."
)
@click.option(
    "--since",
    type=_Since(),
    default="7d",
    show_default=True,
    help="Only studies of the last days (7d), or since a date (2026-11-30), by their study date; or all.",
)
@click.option("--user", help="Name for the PACS; the password is in JAXSEG_PACS_PASSWORD.")
@click.option(
    "--ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificates (PEM) of the authority that signed the certificate of the PACS.",
)
def watch(url, once, every, since, user, ca, max_file_mb, state, **settings):
    """Watch a PACS over DICOMweb: find CR and DX studies, segment them, and store a DICOM SEG for each X-ray.

    Nothing is done twice or lost if this command or the PACS is stopped at any moment: the same command continues. A
    token can be given by JAXSEG_PACS_TOKEN, or a name and password by a netrc file.
    """
    with _needed():
        from jaxseg.pacs.dicomweb import PASSWORD, TOKEN, Dicomweb, is_exposed
    with options.usage_errors():
        service = Dicomweb(url, since=since, user=user, ca=ca, most_bytes=max_file_mb * _MIB)
    if is_exposed(url):
        console.say(f"Warning: {url} is not encrypted: patients' data, {PASSWORD} and {TOKEN} can be read on the way")
    with _opened(state) as opened:
        opened.bind(PACS=service.url)
        work = _worker(opened, service, service, **settings)
        _run(work, every, once=once)


@pacs.command()
@click.option("--port", type=click.IntRange(0, 65535), default=11112, show_default=True, help="Port to listen on.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every network interface."
)
@click.option("--aet", default="JAXSEG", show_default=True, help="AE title of this worker.")
@click.option("--allow", multiple=True, metavar="AET", help="AE title that may send X-rays; repeat it.  [default: all]")
@click.option("--send", required=True, metavar="AET@HOST:PORT", help="Where the results go.")
@_of_worker
@click.option(
    "--max-disk-gb",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="Largest size of all X-rays that wait, in GiB; more are answered with `out of resources`.",
)
def listen(port, host, aet, allow, send, max_file_mb, max_disk_gb, state, **settings):
    """Receive X-rays by C-STORE, segment them, and send a DICOM SEG for each to a PACS.

    An X-ray is confirmed only when its file is safe on the disk. Nothing is lost if this command is stopped at any
    moment: the same command continues.
    """
    with _needed():
        from jaxseg.pacs.listen import Listener
        from jaxseg.pacs.send import Sender, check_title, parse_address
    with options.usage_errors("--send"):
        destination = Sender(parse_address(send), check_title(aet))
    with options.usage_errors("--allow"):
        allowed = [check_title(title) for title in allow]
    if host not in ("localhost", "127.0.0.1", "::1"):
        who = "" if allowed else ", and everyone may send X-rays (--allow names who may)"
        console.say(f"Warning: other machines can connect to {host}:{port} without encryption{who}")
    with _opened(state) as opened:
        opened.bind(PACS=str(destination.address))
        limits = {"most_bytes": max_file_mb * _MIB, "most_folder_bytes": int(max_disk_gb * 1024 * _MIB)}
        listener = Listener(opened, check_title(aet), allowed=allowed, **limits)
        work = _worker(opened, listener, destination, wait=listener.wait, **settings)
        with listener.listening(host, port) as found:
            console.say(f"{aet} listens on {host}:{found}")
            _run(work, 60.0, once=False)


@pacs.command()
@_state
@_as_json
def status(state, as_json):
    """Show what a worker has done: numbers, what failed and why, and what waits."""
    from jaxseg.pacs.state import State

    with options.usage_errors(), State(state, read_only=True) as opened:
        counts, about = opened.counts(), opened.about()
        failed, waiting = opened.failed(-1 if as_json else _SHOWN), opened.waiting(-1 if as_json else _SHOWN)
    if as_json:
        rows = {"failed": [_entry(row) for row in failed], "waiting": [_entry(row) for row in waiting]}
        console.show(json.dumps({"counts": counts, "about": about} | rows, indent=1))
        return
    console.show(", ".join(f"{number} {name}" for name, number in counts.items()))
    if "last sign of life" in about:
        age = time.time() - float(about["last sign of life"])
        console.show(f"last sign of life {age:.0f} s ago" + (f"; {about['outage']}" if about.get("outage") else ""))
    left = counts["seen"] + counts["fetched"] + counts["segmented"]
    for title, rows, number in (("failed", failed, counts["failed"]), ("waiting", waiting, left)):
        if rows:
            console.show(f"\n{title} (SOP Instance UID, tries, reason):")
            console.show_rows([(row.image.sop_uid, str(row.tries), row.reason or row.state) for row in rows])
        if number > len(rows):
            console.show(f"... and {number - len(rows)} more; --json shows all")


@pacs.command()
@_state
def retry(state):
    """Try failed X-rays again; a worker that runs takes them up at its next look."""
    from jaxseg.pacs.state import State

    with options.usage_errors(), State(state, read_only=True) as opened:
        console.say(f"{opened.retry()} X-rays will be tried again")


def _entry(row) -> dict:
    """Returns a row for JSON."""
    found = {"study": row.image.study_uid, "series": row.image.series_uid, "instance": row.image.sop_uid}
    return found | {"state": row.state, "reason": row.reason, "tries": row.tries, "changed": row.changed}


@contextlib.contextmanager
def _needed() -> Iterator[None]:
    """Says what to install if a package of the extra is missing."""
    try:
        yield
    except ImportError as error:
        package = (error.name or "").split(".")[0]
        if package not in ("dicomweb_client", "requests", "pynetdicom", "highdicom"):
            raise
        raise click.ClickException(f"jaxseg pacs needs {package}: pip install 'jaxseg[pacs]'") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator:
    """Yields the open state file."""
    from jaxseg.pacs.state import State

    with options.usage_errors("--state"):
        opened = State(path)
    with opened:
        yield opened


def _worker(state, source, destination, *, secondary_capture, report, any_body_part, wait=time.sleep, **network):
    """Returns the worker of the command's options, ready to run."""
    with _needed():
        import jaxseg.pacs.objects  # noqa: F401  # so that a missing package is reported now
        from jaxseg.pacs.results import Results
        from jaxseg.pacs.worker import Worker
    console.stage("reading weights")
    results = Results(make_segmenter(**network), capture=secondary_capture, report=report)
    work = Worker(state, source, destination, results, any_body_part, wait=wait)
    with options.usage_errors("--state"):
        work.prepare()
    return work


def _run(work, every: float, *, once: bool) -> None:
    """Runs a worker and shows what it does; with `once`, exits with 1 if an X-ray failed now, or waits."""
    from jaxseg.pacs.worker import Outage

    counts = {"stored": 0, "failed": 0}

    def show(what: str, uid: str, text: str) -> None:
        if what in counts:
            counts[what] += 1
        if what == "stored":
            console.say(f"Stored: the results of {uid}" + (f" (note: {text})" if text else ""))
        elif what == "outage":
            console.say(f"Waiting: {text}")
        else:
            console.say(f"{what.capitalize()}: {uid}: {text}")

    work.report = show
    with resumable(lambda: "The same command continues where it stopped."):
        if not once:
            work.run(every)
        try:
            work.once()
        except Outage as error:
            raise click.ClickException(f"{error}; the same command continues") from None
    left = work.state.counts()
    waiting = left["seen"] + left["fetched"] + left["segmented"]  # also from earlier runs
    console.say(f"{counts['stored']} stored, {counts['failed']} failed, {waiting} waiting")
    if counts["failed"] or waiting:
        sys.exit(1)
