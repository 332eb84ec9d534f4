"""The log of a run: JSON lines that a kill may cut short, entries that a resumed run drops, TensorBoard events."""

import json
import resource
import sys

import pytest

from jaxseg.training.log import METRICS_FILE, Log, brief, headline, read_metrics
from jaxseg.vocabulary.labels import CXAS


def write(folder, steps, after=0) -> None:
    with Log(folder, after) as log:
        for step in steps:
            log.write("train", step, 1, {"loss": 1 / step})


def steps(folder) -> list[int]:
    return [entry["step"] for entry in read_metrics(folder / METRICS_FILE)]


def test_a_validation_of_many_classes_is_one_short_line():
    scores = {"dice": 0.5, "iou": 0.4}
    for kind in ("dice", "iou"):
        scores |= {f"{kind} {name}": i / 200 for i, name in enumerate(CXAS)}
    scores |= {f"dice {CXAS[7]}": float("nan"), f"iou {CXAS[9]}": -1.0}
    lowest = [CXAS[0], CXAS[1], CXAS[2]]
    assert headline({"step": 3} | scores) == {"step": 3, "dice": 0.5, "iou": 0.4} | {
        f"dice {name}": scores[f"dice {name}"] for name in lowest
    }
    assert brief(scores) == "dice 0.5000, iou 0.4000; lowest: " + ", ".join(
        f"{name} {scores[f'dice {name}']:.4f}" for name in lowest
    )
    assert brief({"dice": 0.5, "dice_before": 0.25}) == "dice 0.5000, dice_before 0.2500"
    assert headline({}) == {}


def test_entries_are_lines_of_json(tmp_path):
    with Log(tmp_path, 0) as log:
        log.write("val", 4, 1, {"dice": 0.5})
        assert json.loads((tmp_path / METRICS_FILE).read_text()) == {"split": "val", "step": 4, "epoch": 1, "dice": 0.5}


def test_a_value_that_is_not_a_number_is_written_as_null(tmp_path):
    """NaN is not valid JSON: other readers refuse the whole line."""
    with Log(tmp_path, 0) as log:
        log.write("val", 1, 1, {"dice": float("nan"), "iou": float("inf")})
    assert json.loads((tmp_path / METRICS_FILE).read_text(), parse_constant=pytest.fail)["dice"] is None


def test_a_resumed_run_drops_the_entries_after_its_checkpoint(tmp_path):
    write(tmp_path, range(1, 8))
    write(tmp_path, [5, 6], after=4)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_line_that_was_cut_short_is_dropped(tmp_path):
    write(tmp_path, [1, 2, 3])
    path = tmp_path / METRICS_FILE
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        path.write_bytes(whole[:-cut])
        assert steps(tmp_path) == [1, 2]
    write(tmp_path, [3], after=2)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["{}", "nonsense", '{"step": null}', '{"step": 1e999}', "[1]", "null", "[" * 50_000])
def test_a_damaged_line_is_an_error_with_its_number(tmp_path, line):
    write(tmp_path, [1])
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="metrics.jsonl, line 2: this is not an entry of a run"):
        read_metrics(tmp_path / METRICS_FILE)


def test_without_a_file_there_are_no_entries(tmp_path):
    assert read_metrics(tmp_path / METRICS_FILE) == []


def test_tensorboard_events_hold_the_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401
    from tensorboardX.proto.event_pb2 import Event

    write(tmp_path, [1, 2])
    found = {}
    for path in (tmp_path / "tensorboard").iterdir():
        raw, at = path.read_bytes(), 0
        while at < len(raw):  # a record: length (8), its checksum (4), the event, its checksum (4)
            size = int.from_bytes(raw[at : at + 8], "little")
            event = Event.FromString(raw[at + 12 : at + 12 + size])
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            at += 16 + size
    assert found == {("train/loss", 1): 1.0, ("train/loss", 2): 0.5}


def test_without_tensorboard_there_are_no_events_and_no_failure(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboardX"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    write(tmp_path, [1])
    assert steps(tmp_path) == [1]
    assert not (tmp_path / "tensorboard").exists()


def test_a_full_disk_names_the_file(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Log(tmp_path, 0) as log:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large: .*metrics.jsonl"):
                log.write("val", 1, 1, {f"dice {i}": 0.5 for i in range(100)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    write(tmp_path, [1])  # an incomplete line does no harm
    assert steps(tmp_path)[-1] == 1
