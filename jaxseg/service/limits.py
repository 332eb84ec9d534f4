"""What one client may cost the service, and the error that says so."""

import dataclasses
import math
import re

from jaxseg.images.picture import MAX_PIXELS
from jaxseg.volumes.volume import MAX_VOXELS


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of what requests may cost.

    Attributes:
      bytes: of the body of a request; counted while it arrives.
      pixels: of an X-ray or a mask; checked before it is decoded.
      voxels: of a volume; checked before it is decoded.
      seconds: from the first byte of a request until its answer is ready; sending the answer may take as long again.
      queue: requests that the service works on or that wait, including those whose body still arrives and those whose
        answer is still being sent.
      results: answered requests whose results are kept, so that they can be fetched in other formats.
      result_seconds: how long such a result is kept.
      result_bytes: of all kept results together, in memory and on the disk.
      seg_bytes: of memory to write one DICOM SEG; only one is written at a time.

    Raises:
      ValueError: a limit is not positive, or larger than jaxseg can read.

    >>> Limits(queue=8).queue
    8
    """

    bytes: int = 2**27
    pixels: int = 2**25
    voxels: int = 2**27
    seconds: float = 60.0
    queue: int = 32
    results: int = 256
    result_seconds: float = 600.0
    result_bytes: int = 2**30
    seg_bytes: int = 2**31

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the limit {name} must be above 0, got {value}")
        for name, most in (("pixels", MAX_PIXELS), ("voxels", MAX_VOXELS)):
            if getattr(self, name) > most:
                raise ValueError(f"the limit {name} is at most {most:,}, got {getattr(self, name):,}")


class Refused(Exception):
    """A request that is not served: `status` of HTTP, a sentence for the client, and headers of the answer."""

    def __init__(self, status: int, text: str, **headers: str):
        super().__init__(text)
        self.status, self.text = status, text
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class ClientGone(Exception):
    """The client closed its connection before it had an answer."""


def plain(text: str, file: str = "") -> str:
    """Returns a message of the library without the name of a file and without hints on options of commands.

    Args:
      text: the message.
      file: name of the file in the service's folder; the client knows it by another name.

    >>> plain("x1: RGB is colour (--intensity clinical converts it to grey)", "x1")
    'RGB is colour'
    """
    text = " ".join(text.split())
    if file:
        name = re.escape(file) + r"(?:\.\w+)*"  # some readers need a suffix
        text = re.sub(name, "the file", re.sub(f"^{name}: ", "", text))
    text = re.sub(r" \([^()]*(?:--|-ot\b)[^()]*\)", "", text)
    return text.replace("--intensity ", "intensity=")
