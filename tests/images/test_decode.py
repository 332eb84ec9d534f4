"""What pydicom warns of stays within the reader, whatever other threads do."""

import warnings

import pytest
from dicom_files import RAMP, write_dicom

from jaxseg.images.decode import without_remarks
from jaxseg.images.read import ImageError, read_picture


def test_pydicoms_warnings_do_not_come_out_beside_the_notes(shared, tmp_path, recwarn):
    assert len(read_picture(write_dicom(tmp_path / "x.dcm", RAMP, Rows=2)).notes) == 1
    with pytest.raises(ImageError, match="no pixel data"):
        read_picture(shared / "data" / "dicom" / "derived_truncated_jpeg_cxr.dcm")
    assert [warning.message for warning in recwarn] == []


def test_silence_lasts_until_the_last_thread_that_wants_it_is_done():
    first, second, before = without_remarks(), without_remarks(), list(warnings.filters)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    warnings.warn("not heard", UserWarning, stacklevel=1)
    second.__exit__(None, None, None)
    assert warnings.filters == before
    with pytest.raises(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)
