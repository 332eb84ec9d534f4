"""The forecast of a long run."""

from types import SimpleNamespace

import pytest

from jaxseg.cli.progress import Forecast


def forecast(total: int, *, seconds: float, size: int | None = None, batch: int = 1, before: int = 0) -> None:
    """Shows the progress of a run whose first file takes a minute, and the others `seconds`."""
    now = [0.0]
    shown = Forecast("images", clock=lambda: now[0])
    shown.progress(before, total, "")
    now[0] = 60.0
    for done in range(before + 1, total + 1):
        if (done - before) % batch == 0:
            now[0] += seconds * batch
        if size is not None and done - before <= 20:
            shown.report(SimpleNamespace(size=size))
        shown.progress(done, total, f"{done}.png")


@pytest.mark.parametrize(
    ("total", "options", "line"),
    [
        (377_110, {"seconds": 1 / 12, "size": 109_000}, "12 images/s after the first ten: about 8.7 hours and 41.1 GB"),
        (1_000, {"seconds": 0.5, "size": 1_000}, "2 images/s after the first ten: about 8 minutes and 1.0 MB"),
        (100, {"seconds": 1.0}, "1 images/s after the first ten: about 80 seconds"),
        (1_000, {"seconds": 2.0, "before": 900}, "0.5 images/s after the first ten: about 3 minutes"),
    ],
)
def test_a_long_run_has_one_forecast_after_the_first_files(capsys, total, options, line):
    forecast(total, **options)
    assert capsys.readouterr().err == f"{total:,} images; {line} to come\n"


def test_batches_do_not_make_the_speed_infinite(capsys):
    forecast(1_000, seconds=1.0, batch=16)
    speed = float(capsys.readouterr().err.split("; ")[1].split()[0])
    assert 0.5 <= speed <= 2


@pytest.mark.parametrize(
    ("total", "options"), [(50, {"seconds": 1.0}), (500, {"seconds": 1.0, "before": 480}), (200, {"seconds": 0.001})]
)
def test_short_runs_have_none(capsys, total, options):
    forecast(total, **options)
    assert capsys.readouterr().err == ""
