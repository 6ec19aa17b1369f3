"""What kind of file the first bytes claim, whatever its name says."""

import re

from maskbatch.errors import ImageError

SIGNATURES = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WEBP",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
CONVERT = "convert it to a usual JPEG or PNG"
OTHERS = {
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL \r\n\x87\n": "a JPEG XL image",
    b"\0\0\0\x0cjP  \r\n\x87\n": "a JPEG 2000 image",
    b"\xff\x4f\xff\x51": "a JPEG 2000 image",
    b"FUJIFILMCCD-RAW": "a raw camera file (RAF)",
    b"IIRO": "a raw camera file (ORF)",
    b"IIRS": "a raw camera file (ORF)",
    b"MMOR": "a raw camera file (ORF)",
    b"IIU\0": "a raw camera file (RW2)",
    b"II\x1a\0\0\0HEAPCCDR": "a raw camera file (CRW)",
    b"FOVb": "a raw camera file (X3F)",
    b"\0MRM": "a raw camera file (MRW)",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"\0\0\1\xba": "an MPEG video",
    b"\0\0\0\1\x67": "an H.264 video",
    b"\0\0\0\1\x40": "an H.265 video",
}
"""Kinds that people keep among their snapshots, and that are not read."""
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs")
GENERAL_BRANDS = (b"mif1", b"msf1")


def detect_kind(data: bytes) -> str:
    """The format to decode `data` as: one of SIGNATURES, `AVIF` or `HEIC`.

    Raises ImageError for what is no image that can be read, in a sentence that names it.
    """
    kind = next((name for start, name in SIGNATURES.items() if data.startswith(start)), None)
    if kind == "WEBP" and len(data) >= 12 and data[8:12] != b"WEBP":
        raise ImageError("unsupported", f"the file holds {_riff_kind(data)}, not an image")
    if data[4:8] == b"ftyp":
        return _detect_brand(data)
    return kind or _refuse(data)


def _riff_kind(data: bytes) -> str:
    return {b"AVI ": "an AVI video", b"WAVE": "a sound"}.get(data[8:12], "other data in RIFF form")


def _detect_brand(data: bytes) -> str:
    """By the brands of an ISO media file: those of a picture come first or among the compatible ones."""
    end = min(max(16, int.from_bytes(data[:4], "big")), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
    if brands[0] in (b"avif", b"avis") or (brands[0] in GENERAL_BRANDS and b"avif" in brands):
        return "AVIF"
    if brands[0] in HEIF_BRANDS or brands[0] in GENERAL_BRANDS:
        return "HEIC"
    if brands[0] == b"crx ":
        raise ImageError(
            "unsupported", f"the file holds a raw camera file (CR3), which is not read; {CONVERT}"
        )
    if brands[0] == b"jxl ":
        raise ImageError("unsupported", f"the file holds a JPEG XL image, which is not read; {CONVERT}")
    name = "a QuickTime video" if brands[0] == b"qt  " else "an MP4 video"
    raise ImageError("unsupported", f"the file holds {name}, not an image; extract its frames to JPEG")


def _refuse(data: bytes) -> str:
    """Raises ImageError with the most telling sentence."""
    name = next((name for start, name in OTHERS.items() if data.startswith(start)), None)
    if name and ("image" in name or "raw" in name):
        raise ImageError("unsupported", f"the file holds {name}, which is not read; {CONVERT}")
    if name:
        raise ImageError("unsupported", f"the file holds {name}, not an image")
    if not data.strip(b"\0"):
        raise ImageError("unsupported", f"the file holds only zeros ({len(data):,} bytes), not an image")
    if data.lstrip()[:1] == b"<":
        raise ImageError("unsupported", "the file holds HTML or XML, not an image")
    if re.fullmatch(rb"[\t\n\r\f -~]+", data[:512]):
        raise ImageError("unsupported", "the file holds text, not an image")
    known = ", ".join(sorted(set(SIGNATURES.values())))
    raise ImageError("unsupported", f"not an image of a known format ({known})")
