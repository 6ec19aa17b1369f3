"""Why a Parquet file does not read: its bytes are damaged, or this pyarrow cannot read what is sound."""

import re

import pyarrow as pa
import pyarrow.parquet as pq

NEEDED = "26"
"""The first pyarrow that reads a null in a list of fixed size, which is how `box` was written at first."""
UNABLE = re.compile("Expected all lists to be of size|Support for codec")
"""What a pyarrow that is too old, or lacks a codec, says of sound bytes."""


def is_damaged(data: bytes) -> bool:
    """Whether no pyarrow can read these bytes: no footer, or pages that their checksums or headers belie."""
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError):
        return True
    for name in parquet.schema_arrow.names:
        try:
            parquet.read([name])
        except OSError as error:  # of the bytes; what Arrow cannot do with sound ones is an ArrowException
            if not is_unable(error):
                return True
        except pa.ArrowException:
            continue
    return False


def is_unable(error: BaseException) -> bool:
    """Whether reading failed for want of a newer pyarrow."""
    return UNABLE.search(str(error)) is not None


def advise_reading(error: BaseException, remedy: str) -> str:
    """What to do about a file that does not read: `remedy`, unless it wants a newer pyarrow."""
    if is_unable(error):
        return f"pyarrow {pa.__version__} cannot read it: install pyarrow {NEEDED} or later"
    return remedy
