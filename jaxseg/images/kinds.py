"""What kind of image a file is, by its first bytes: names of DICOM files often have no suffix, or a number for one."""

from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_DIRECTORY = b"\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10"  # SOP class: Media Storage Directory
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
_HEAD = 1024  # bytes; the SOP class stands in the first hundreds


def stem(path: Path) -> str:
    """Returns an image's name without its suffix; the end of a UID that serves as a name is none."""
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def kind_of(path: Path) -> str | None:
    """Returns "dicom", "dicomdir" (an index of DICOM files), "raster" (PNG, JPEG), or None for any other content.

    Raises:
      OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head[128:132] == b"DICM":
        return "dicomdir" if _DIRECTORY in _meta(head) else "dicom"
    return "raster" if head.startswith((_PNG, _JPEG)) else None


def _meta(head: bytes) -> bytes:
    """The file meta information: its first element tells how long the others are."""
    is_length = head[132:140] == _GROUP_LENGTH
    return head[144 : 144 + int.from_bytes(head[140:144], "little")] if is_length else head[132:256]


def check_kind(path: Path) -> str:
    """Returns "dicom" or "raster": how a file is to be read; where the content does not tell, by the suffix.

    Raises:
      ValueError: neither tells, or the file is an index; the message starts after the file's name.
      OSError: the file cannot be read.
    """
    kind, suffix = kind_of(path), path.suffix.lower()
    if kind == "dicomdir":
        raise ValueError("a DICOMDIR lists the images of its folder and is none; give its folder with --recursive")
    if kind == "dicom" or suffix == ".dcm":
        return "dicom"
    if kind is None and suffix not in SUFFIXES:
        raise ValueError(
            f"cannot read {suffix or 'a file without suffix'}; allowed: {', '.join(SUFFIXES)}, or one of these under "
            "any name"
        )
    return "raster"
