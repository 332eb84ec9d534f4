"""The loop of a worker with a PACS in memory: what is done once, what is tried again, and what fails."""

import errno
import sqlite3
import time

import pydicom
import pytest
from pacs_kit import CHEST, FakePacs, FakeSegmenter, chest, image_of, refused, unavailable, worker, xray

from jaxseg.pacs import worker as loop
from jaxseg.pacs.exchange import Image
from jaxseg.pacs.state import State
from jaxseg.pacs.worker import MOST_TRIES, Outage

pytest.importorskip("highdicom")


@pytest.fixture
def state(tmp_path):
    with State(tmp_path / "state") as found:
        yield found


@pytest.fixture
def paths(tmp_path):
    return [xray(tmp_path, number) for number in range(3)]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(loop, "FIRST_WAIT_S", 0.0)


def test_each_image_gets_one_seg_and_its_files_go(state, paths):
    pacs, segmenter = FakePacs(*paths), FakeSegmenter(batch_size=2)
    work, said = worker(state, pacs, segmenter)
    work.once()
    work.once()
    assert segmenter.batches == [2, 1]
    assert pacs.calls.count("store") == pacs.calls.count("fetch") == 3
    assert sorted(uid for what, uid, _ in said) == sorted(image_of(path).sop_uid for path in paths)
    for what, _, text in said:  # notes on the masks, and on the header
        assert (what, text.startswith("a note; "), text.count("pixel spacing is unknown")) == ("stored", True, 1)
    sources = {image_of(path).sop_uid for path in paths}
    for uid, content in pacs.stored.items():
        dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
        (series,) = dataset.ReferencedSeriesSequence
        assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID in sources
        assert (dataset.SOPInstanceUID, dataset.Modality) == (uid, "SEG")
    assert list(state.files.iterdir()) == []
    assert float(state.about()["last sign of life"]) == pytest.approx(time.time(), abs=60)


def test_the_seg_is_stored_last_and_confirms_the_others(state, paths):
    pacs = FakePacs(paths[0])
    work, _ = worker(state, pacs, capture=True)
    pacs.faults["store"] = [None, unavailable()]
    work.once()
    kinds = [pydicom.dcmread(pydicom.filebase.DicomBytesIO(content)).Modality for content in pacs.stored.values()]
    assert kinds == ["OT", "SEG"]
    assert state.counts()["stored"] == 1


def test_a_result_that_the_pacs_holds_is_not_made_again(state, paths, tmp_path):
    pacs = FakePacs(*paths)
    worker(state, pacs)[0].once()
    pacs.calls.clear()
    with State(tmp_path / "new state") as other:  # the first state file was lost
        work, _ = worker(other, pacs)
        work.once()
        assert other.counts()["stored"] == 3
    assert not {"fetch", "store"} & set(pacs.calls)


def test_a_result_that_was_not_wanted_before_is_made_by_a_new_state(state, paths, tmp_path):
    pacs = FakePacs(paths[0])
    worker(state, pacs)[0].once()
    for _ in range(2):
        with State(tmp_path / f"new state {len(pacs.stored)}") as other:
            worker(other, pacs, capture=True)[0].once()
            assert other.counts()["stored"] == 1
    kinds = [pydicom.dcmread(pydicom.filebase.DicomBytesIO(content)).Modality for content in pacs.stored.values()]
    assert kinds == ["SEG", "OT"]
    assert (pacs.calls.count("fetch"), pacs.calls.count("store")) == (2, 2)


def test_a_worker_that_ends_between_store_and_commit_stores_once(state, paths):
    pacs = FakePacs(paths[0])
    work, _ = worker(state, pacs)
    store = pacs.store

    def ends(path):
        store(path)
        raise KeyboardInterrupt

    pacs.store = ends
    with pytest.raises(KeyboardInterrupt):
        work.once()
    (row,) = state.waiting()
    assert (row.state, row.tries) == ("segmented", 0)  # an interrupted attempt does not count
    pacs.store = store
    pacs.calls.clear()
    worker(state, pacs)[0].once()
    assert "store" not in pacs.calls
    assert state.counts()["stored"] == 1


def test_faults_of_the_network_are_tried_again_and_then_given_up(state, paths):
    pacs = FakePacs(paths[0])
    work, said = worker(state, pacs)
    pacs.faults = {"fetch": [unavailable(), unavailable()], "store": [unavailable()]}
    work.once()
    assert [what for what, *_ in said] == ["postponed"] * 3 + ["stored"]
    other = FakePacs(paths[1])
    work.source = work.destination = other
    other.faults["fetch"] = [unavailable("no answer")] * 2 * MOST_TRIES
    work.once()
    assert [(row.reason, row.tries) for row in state.failed()] == [
        (f"no answer (at {MOST_TRIES} attempts)", MOST_TRIES)
    ]


def test_the_wait_that_a_server_asks_for_is_kept(state, paths):
    pacs = FakePacs(paths[0])
    pacs.faults["fetch"] = [unavailable(wait_s=90)]
    work, _ = worker(state, pacs)
    work.once()
    assert state.next_due() == pytest.approx(time.time() + 90, abs=10)


def test_an_outage_does_not_count_for_any_image(state, paths):
    pacs = FakePacs(*paths)
    work, _ = worker(state, pacs)
    for _ in range(2 * MOST_TRIES):
        pacs.faults = {"fetch": [None, unavailable()], "check": [unavailable("the PACS refused the connection")]}
        if not all(path.exists() for path in map(work._path, pacs.files)):
            with pytest.raises(Outage, match="refused the connection"):
                work.once()
            assert state.about()["outage"] == "the PACS refused the connection"
            for path in map(work._path, pacs.files):
                path.unlink(missing_ok=True)
    assert [row.tries for row in state.waiting()] == [0, 0, 0]
    pacs.faults = {}
    work.once()
    assert (state.counts()["stored"], state.about()["outage"]) == (3, "")


def test_a_pacs_that_is_full_is_an_outage_and_others_go_first(state, paths):
    pacs = FakePacs(*paths)
    work, _ = worker(state, pacs, FakeSegmenter(batch_size=1))
    for _ in range(MOST_TRIES + 2):
        pacs.faults = {"store": [unavailable("C-STORE status A700", for_all=True)]}
        with pytest.raises(Outage, match="A700"):
            work.once()
        assert "check" not in pacs.calls
    assert [row.tries for row in state.waiting()] == [0, 0, 0]
    work.once()
    assert state.counts()["stored"] == 3


@pytest.mark.parametrize("call", ["find", "check"])
def test_run_waits_during_an_outage_and_continues(state, paths, call, monkeypatch):
    pacs = FakePacs(paths[0])
    pacs.faults = (
        {"find": [unavailable("down")]}
        if call == "find"
        else {"fetch": [unavailable()], "check": [unavailable("down")]}
    )
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if state.counts()["stored"]:
            raise KeyboardInterrupt

    work, said = worker(state, pacs, wait=wait)
    with pytest.raises(KeyboardInterrupt):
        work.run(30.0)
    assert ("outage", "", "down") in said
    assert len(waits) == 1  # during the outage the worker slept, and no news could wake it
    assert 29 < waits[-1] <= 30


def test_what_cannot_be_segmented_fails_with_its_reason_and_is_not_tried_again(state, tmp_path):
    hand = xray(tmp_path, 0, tags={"BodyPartExamined": "HAND"})
    cut = xray(tmp_path, 1)
    cut.write_bytes(cut.read_bytes()[:-500])
    ct = xray(tmp_path, 2, tags={"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"})
    colour = xray(tmp_path, 3, tags={"PhotometricInterpretation": "RGB"})
    good = xray(tmp_path, 4)
    pacs = FakePacs(hand, cut, ct, colour, good)
    work, said = worker(state, pacs)
    for _ in range(3):
        work.once()
    reasons = {row.image: row.reason for row in state.failed()}
    assert "BodyPartExamined names another part" in reasons[image_of(hand)]
    assert "HAND" not in reasons[image_of(hand)]
    assert "SOP class is not CR or DX" in reasons[image_of(ct)]
    assert "RGB is colour" in reasons[image_of(colour)]
    assert reasons[image_of(cut)]
    assert state.counts() == {"seen": 0, "fetched": 0, "segmented": 0, "stored": 1, "failed": 4}
    assert pacs.calls.count("fetch") == 5
    assert list(state.files.iterdir()) == []
    assert not any(uid + ".dcm" in reason for _, uid, reason in said)


def test_any_body_part_is_an_option(state, tmp_path):
    pacs = FakePacs(xray(tmp_path, 0, tags={"BodyPartExamined": "HAND"}))
    work, _ = worker(state, pacs, any_body_part=True)
    work.once()
    assert state.counts()["stored"] == 1


def test_a_refused_result_fails_at_once(state, paths):
    pacs = FakePacs(paths[0])
    pacs.faults["store"] = [refused()]
    work, _ = worker(state, pacs)
    work.once()
    work.once()
    assert [(row.reason, row.tries) for row in state.failed()] == [("HTTP status 409", 1)]
    state.retry()
    work.once()
    assert state.counts()["stored"] == 1


def test_one_bad_image_does_not_take_its_batch_with_it(state, paths):
    pacs = FakePacs(*paths)
    bad = image_of(paths[1]).sop_uid
    segmenter = FakeSegmenter(error=RuntimeError("no memory", bad))
    work, _ = worker(state, pacs, segmenter)
    work.once()
    assert segmenter.batches == [3, 1, 1, 1]
    assert state.counts()["stored"] == 2
    assert [row.reason for row in state.failed()] == [f"RuntimeError: ('no memory', '{bad}')"]


def test_an_image_that_ends_the_process_is_given_up_and_others_are_kept_apart(state, paths):
    pacs = FakePacs(*paths)
    segmenter = FakeSegmenter()
    work, _ = worker(state, pacs, segmenter)
    work.state.add(image_of(paths[0]))
    for _ in range(MOST_TRIES):
        state.begin(image_of(paths[0]))  # and the process was killed
    work.state.add(image_of(paths[1]))
    for _ in range(2):
        state.begin(image_of(paths[1]))
    work.once()
    assert [(row.image, row.reason) for row in state.failed()] == [
        (image_of(paths[0]), "the worker ended at every attempt")
    ]
    assert segmenter.batches == [1, 1]


def test_a_full_disk_is_an_outage(state, paths):
    pacs = FakePacs(paths[0])
    pacs.faults["fetch"] = [OSError(errno.ENOSPC, "No space left on device")]
    work, _ = worker(state, pacs)
    with pytest.raises(Outage, match="No space left on device"):
        work.once()
    assert state.waiting()[0].tries == 0
    work.once()
    assert state.counts()["stored"] == 1


@pytest.mark.parametrize("method", ["add", "due", "begin", "move", "postpone", "fail", "note"])
def test_a_disk_that_is_full_for_the_state_file_is_an_outage(state, paths, tmp_path, method, monkeypatch):
    pacs = FakePacs(*paths, xray(tmp_path, 3, tags={"BodyPartExamined": "HAND"}))
    pacs.faults["fetch"] = [unavailable()]
    work, _ = worker(state, pacs)

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        for name in {method, "note", "uncount"}:
            patch.setattr(State, name, full)
        with pytest.raises(Outage, match="database or disk is full"):
            work.once()
    work.once()
    assert (state.counts()["stored"], state.counts()["failed"]) == (3, 1)


def test_run_waits_if_the_state_file_cannot_be_read(state, paths, monkeypatch):
    work, said = worker(state, FakePacs(paths[0]))

    def full():
        monkeypatch.undo()
        work.wait = lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(loop, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(state, "next_due", full)
    monkeypatch.setattr(loop.time, "sleep", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        work.run(30.0)
    assert [what for what, *_ in said] == ["stored", "outage"]


def test_an_outage_takes_back_only_attempts_that_have_not_ended(state, paths, tmp_path):
    bad = xray(tmp_path, 3, tags={"BodyPartExamined": "HAND"})
    pacs = FakePacs(bad, *paths)
    pacs.faults["fetch"] = [None, unavailable(wait_s=60), unavailable("full", for_all=True)]
    work, _ = worker(state, pacs, FakeSegmenter(batch_size=4))
    with pytest.raises(Outage, match="full"):
        work.once()
    tries = {path: state.find(image_of(path).sop_uid).tries for path in (bad, *paths)}
    assert list(tries.values()) == [1, 1, 0, 0]


def test_a_file_with_other_identifiers_than_stated_is_refused(state, paths):
    pacs = FakePacs(paths[0])
    (image,) = pacs.files
    pacs.files = {Image(image.study_uid, image.series_uid, "1.2.3"): paths[0]}
    work, _ = worker(state, pacs)
    work.once()
    assert [row.reason for row in state.failed()] == ["the file has other identifiers than the PACS stated"]


@pytest.mark.parametrize("uid", ["../../evil", "1.2/../../3", "", "1..2", "a" * 300, "1.2.3\x00"])
def test_identifiers_that_are_no_uids_fail_and_touch_no_file(state, paths, uid):
    pacs = FakePacs(paths[0])
    (image,) = pacs.files
    pacs.files = {Image(image.study_uid, image.series_uid, uid): paths[0]}
    before = sorted(state.path.parent.iterdir())
    work, _ = worker(state, pacs)
    work.once()
    state.retry()
    work.once()
    assert "not a valid identifier" in state.failed()[0].reason
    assert "fetch" not in pacs.calls
    assert sorted(state.path.parent.iterdir()) == before


def test_a_new_model_needs_a_new_state_file(state, paths):
    worker(state, FakePacs(paths[0]))
    with pytest.raises(ValueError, match="belongs to another model"):
        worker(state, FakePacs(paths[0]), FakeSegmenter(threshold=0.25))
    with pytest.raises(ValueError, match="settings or results"):
        worker(state, FakePacs(paths[0]), capture=True)


def test_what_a_killed_worker_left_is_removed(state, paths):
    image = image_of(paths[0])
    state.add(image, "fetched")
    for name in (f"{image.sop_uid}.dcm", "9.9.dcm", "9.9.seg.dcm"):
        (state.files / name).write_bytes(paths[0].read_bytes())
    pacs = FakePacs()
    work, _ = worker(state, pacs)
    assert [path.name for path in state.files.iterdir()] == [f"{image.sop_uid}.dcm"]
    work.once()  # the X-ray was fetched before the kill
    assert state.counts()["stored"] == 1


def test_a_report_goes_the_whole_way(state, paths):
    """The masks of this model can be measured."""

    class OfChests(FakeSegmenter):
        def predict(self, images):
            return [chest(picture.size) for _, _, picture in images]

    pacs = FakePacs(*paths[:2])
    work, said = worker(state, pacs, OfChests(names=CHEST), capture=True, report_measures=True)
    work.once()
    assert [what for what, *_ in said] == ["stored"] * 2
    found = [pydicom.dcmread(pydicom.filebase.DicomBytesIO(content)) for content in pacs.stored.values()]
    assert [dataset.Modality for dataset in found] == ["OT", "SR", "SEG"] * 2
    for path, report in zip(paths, found[1::3], strict=False):
        (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
        (series,) = evidence.ReferencedSeriesSequence
        assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image_of(path).sop_uid
