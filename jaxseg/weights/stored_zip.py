"""The members of an uncompressed zip archive as views of its bytes; nothing is unpacked or copied."""

import logging
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from jaxseg.weights.records import TorchFileError, shown

logger = logging.getLogger(__name__)


def members_of(stream: Any, data: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the bytes (N,) uint8 of each member by name, as views of the file.

    Args:
      stream: the archive, as an open file.
      data: (N,) uint8, the archive's bytes.

    Raises:
      TorchFileError: the archive is damaged, or its members are compressed, overlap, share a name or point outside.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            entries, directory = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, LookupError, OSError, ValueError, struct.error) as error:
        raise TorchFileError("is a damaged or incomplete zip archive; download it again") from error
    members: dict[str, np.ndarray] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = shown(entry.orig_filename)
        if set(entry.filename.replace("\\", "/").removesuffix("/").split("/")) & {"", ".", ".."}:
            raise TorchFileError(f"has a member named {name}, a path outside the archive; refusing to read it")
        if entry.filename in members:
            raise TorchFileError(f"has two members named {name}; refusing to read it")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise TorchFileError(
                f"has a compressed or encrypted member {name}, which torch.save never writes: unpack an archive around "
                "the weights; for a TorchScript model, save the state dict"
            )
        start = _data_start(data, entry)
        if entry.header_offset < end or start + entry.file_size > directory:
            raise TorchFileError(f"the member {name} overlaps another one or is cut off; download it again")
        end = start + entry.file_size
        members[entry.filename] = data[start:end]
        if zlib.crc32(members[entry.filename].data) != entry.CRC:
            logger.warning("%s: the checksum does not match; the file is damaged, or was saved without checksums", name)
    return {entry.filename: members[entry.filename] for entry in entries}


def _data_start(data: np.ndarray, entry: zipfile.ZipInfo) -> int:
    """Returns the position of a member's bytes, after its local header, whose name must equal that in the directory."""
    try:
        signature, name_length, extra_length = struct.unpack_from("<4s22xHH", data.data, entry.header_offset)
        written = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
    except (struct.error, ValueError) as error:
        raise TorchFileError("is a damaged zip archive; download it again") from error
    start = entry.header_offset + 30
    if signature != b"PK\x03\x04" or data[start : start + name_length].tobytes() != written:
        raise TorchFileError(f"member {shown(entry.orig_filename)} is not where the archive says; download it again")
    return start + name_length + extra_length
