"""A PACS that is only a dictionary, a model for workers, and a program that runs workers which end at a chosen moment.

Run as a program, this file starts one worker per line, in a new process each.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from xray_files import XRay, write_xray

from jaxseg.card import Card
from jaxseg.images.preprocess import cxas
from jaxseg.images.read import read_picture
from jaxseg.masks.segmentation import Segmentation
from jaxseg.pacs.exchange import Image, Refused, Unavailable
from jaxseg.pacs.results import Results
from jaxseg.pacs.state import State
from jaxseg.pacs.worker import Worker

KILLED = -signal.SIGKILL
# Classes that are measured.
CHEST = (
    "right hemidiaphragm",
    "heart",
    "lung",
    *(f"vertebrae {name}" for name in ("T4", "T5", "T6")),
)
HANGS_S = 150  # a worker that runs for longer is ended


def xray(folder: Path, number: int = 0, **kind) -> Path:
    """Writes an X-ray in a new study, and returns its path."""
    path = folder / f"xray{number}.dcm"
    write_xray(path, XRay(**{"modality": "CR" if number % 2 else "DX", "size": (64, 56)} | kind), seed=number)
    return path


def image_of(path: Path) -> Image:
    """Returns the identifiers in a file."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    return Image(*(str(dataset[tag].value) for tag in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")))


def chest(size) -> Segmentation:
    """Returns masks of boxes whose ratio is known: the heart is 16 pixels wide, and the thorax 40."""
    masks = np.zeros((len(CHEST), 64, 64), bool)
    masks[0, 40:44, 20:33] = True  # the midline is column 32
    masks[1, 30:40, 24:41] = True
    masks[2, 10:40, 10:51] = True
    for k in range(3):
        masks[3 + k, 8 + 10 * k : 12 + 10 * k, 30 + 2 * (k % 2) : 34 + 2 * (k % 2)] = True
    spacing = (0.2, 0.2)
    return Segmentation(CHEST, tuple(range(len(CHEST))), size, np.packbits(masks, axis=2), spacing_mm=spacing)


class FakePacs:
    """Source and destination of a worker, in memory.

    Attributes:
      files: X-rays that it offers.
      stored: results by their UID.
      faults: name of a method -> errors that its next calls raise; None lets a call pass.
      calls: names of the methods that were called.
    """

    def __init__(self, *files: Path):
        self.files = {image_of(path): path for path in files}
        self.stored: dict[str, bytes] = {}
        self.faults: dict[str, list] = {}
        self.calls: list[str] = []

    def _called(self, method: str) -> None:
        self.calls.append(method)
        waiting = self.faults.get(method, [])
        error = waiting.pop(0) if waiting else None
        if error is not None:
            raise error

    def find(self):
        self._called("find")
        return list(self.files)

    def fetch(self, image, path):
        self._called("fetch")
        path.write_bytes(self.files[image].read_bytes())

    def holds(self, study_uid, names):
        self._called("holds")
        return names.sop_uid in self.stored

    def store(self, path):
        self._called("store")
        self.stored[str(pydicom.dcmread(path).SOPInstanceUID)] = path.read_bytes()

    def check(self):
        self._called("check")


@dataclasses.dataclass
class FakeSegmenter:
    """Segments what is bright; X-rays of one seed can be made to fail."""

    batch_size: int = 4
    threshold: float = 0.5
    batches: list[int] = dataclasses.field(default_factory=list)
    error: Exception | None = None
    names: tuple[str, ...] = ("heart", "lung")
    groups: str = "original"

    @property
    def card(self) -> Card:
        return Card("cxas", "unet", (), self.names, "cxas", (64, 64))

    @property
    def settings(self) -> dict:
        return {"weights_sha256": "0", "threshold": self.threshold}

    def compile(self) -> None:
        pass

    def prepare(self, path: Path):
        picture = read_picture(path)
        return path.name, cxas(picture, (64, 64)), picture

    def predict(self, images):
        self.batches.append(len(images))
        if self.error is not None and (len(images) > 1 or self.error.args[1] in images[0][0]):
            raise self.error
        found = []
        for name, x, picture in images:
            bits = np.stack([np.packbits(x[:, :, 0] > cut, axis=1) for cut in (0.0, 1.0)])
            found.append(Segmentation(self.names, (0, 1), picture.size, bits, notes=(f"{name}: a note",)))
        return found


def worker(state: State, pacs, segmenter=None, **options) -> tuple[Worker, list[tuple]]:
    """Returns a worker that is ready, and the list of what it reports."""
    said: list[tuple] = []
    options |= {"report": lambda *what: said.append(what)}
    made = {name: options.pop(name) for name in ("capture", "report_measures") if name in options}
    made["report"] = made.pop("report_measures", False)
    found = Worker(state, pacs, pacs, Results(segmenter or FakeSegmenter(), **made), **options)
    found.prepare()
    return found, said


def unavailable(reason: str = "HTTP status 502", wait_s: float = 0.0, **options) -> Unavailable:
    return Unavailable(reason, wait_s, **options)


def refused(reason: str = "HTTP status 409") -> Refused:
    return Refused(reason)


@dataclasses.dataclass(frozen=True)
class Workers:
    """The parent's side: starts workers through a pipe to this program."""

    send: object
    receive: object

    def start(self, arguments: list, output: Path, *, end: tuple[str, int] | None = None) -> int:
        """Starts `jaxseg` with arguments; `end` is the call after which it kills itself. Returns its process id."""
        self.send.write(json.dumps([[str(word) for word in arguments], str(output), end]) + "\n")
        self.send.flush()
        return int(self.receive.readline())

    def end(self) -> int:
        """Waits for the worker and returns its exit code, which is negative after a signal."""
        return int(self.receive.readline())


@contextlib.contextmanager
def workers() -> Iterator[Workers]:
    """Runs this program; yields what starts workers."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as process:
        yield Workers(process.stdin, process.stdout)
        process.stdin.close()


def _end_after(place: str, count: int) -> None:
    """Makes this process kill itself with SIGKILL after the given call of a method, such as Dicomweb.store."""
    from jaxseg.pacs import dicomweb, listen, send, state

    owner, method = place.split(".")
    kinds = {kind.__name__: kind for kind in (dicomweb.Dicomweb, send.Sender, listen.Listener, state.State)}
    original, left = getattr(kinds[owner], method), [count]

    def ending(*args, **options):
        result = original(*args, **options)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(kinds[owner], method, ending)


def serve() -> None:
    """Runs `jaxseg` with the arguments of every line [arguments, output, end]; answers with process id and status."""
    import jaxseg.anatomy.segment
    import jaxseg.pacs.dicomweb
    import jaxseg.pacs.listen
    import jaxseg.pacs.objects
    import jaxseg.pacs.send  # noqa: F401
    from jaxseg.cli.main import main
    from jaxseg.nn.resnet import VARIANTS
    from jaxseg.pacs import worker as loop

    VARIANTS["resnet18"] = ((1, 1, 1, 1), False)  # one block per stage
    loop.FIRST_WAIT_S = 0.2
    for line in sys.stdin:
        arguments, output, end = json.loads(line)
        process = os.fork()
        if process == 0:
            code = 70
            signal.alarm(HANGS_S)
            try:
                descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                if end:
                    _end_after(*end)
                main(arguments)
            except SystemExit as stop:
                code = stop.code or 0
            finally:
                os._exit(code)
        _answer(process)
        _answer(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
