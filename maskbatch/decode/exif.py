"""EXIF: which way up a picture is, and when it was taken.

A reader of its own, for a dozen tags: of a hostile block, Pillow's reads the same bytes for 65,535 entries.
Source: CIPA DC-008 (Exif 3.0), tags 0x0112, 0x0132, 0x8769, 0x9003, 0x9004, 0x9010 to 0x9012, 0x9290 to
0x9292.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from maskbatch.decode.directory import FORMS, Form, find_first, read_directory, read_numbers
from maskbatch.times import parse_time

TEXT_TYPES = (1, 2, 7, 129)
"""Text, UTF-8, and bytes that some cameras write instead."""
ORIENTATION, EXIF_DIRECTORY = 0x0112, 0x8769
TIMES = ((0x9003, 0x9011, 0x9291), (0x9004, 0x9012, 0x9292), (0x0132, 0x9010, 0x9290))
"""(time, its offset, its fraction of a second): of the exposure, of its digitizing, of the last change."""
TEXTS = frozenset(tag for tags in TIMES for tag in tags)
MAX_TEXT_BYTES = 80
YEARS = range(1970, 2100)
UNSET_YEARS = frozenset((*range(1970, 1990), 2000))
"""Where clocks begin that nobody set. Kept where there is no other time: the report names such a camera."""
MIN_LENGTH = len("2026274")
"""Shorter numbers count seconds since 1970, which is no clock."""
TAIL = re.compile(r"(?:\.| DST)$", re.IGNORECASE)
MILLISECONDS = re.compile(r"(?<=[0-9]{2}:[0-9]{2}:[0-9]{2}):([0-9]{3})$")
UNKNOWN_OFFSET = re.compile(r"-00:?00$")
OFFSET = re.compile(r"([+-])(\d\d?)(?::?(\d\d))?")


@dataclass(frozen=True, slots=True)
class Exif:
    """What one picture's EXIF says."""

    orientation: int = 1
    """1 is upright, 2 to 8 turned or mirrored; anything else says nothing."""
    time: str | None = None
    """ISO 8601, with an offset only where the camera wrote one."""


NOTHING = Exif()


def read_exif(block: bytes) -> Exif:
    """From a TIFF structure: an EXIF block without its `Exif` mark, or a whole TIFF. Never raises."""
    form = FORMS.get(block[:4])
    if form is None:
        return NOTHING
    numbers, texts = _read_tags(block, find_first(block, form), form)
    if EXIF_DIRECTORY in numbers:
        texts |= _read_tags(block, numbers[EXIF_DIRECTORY], form)[1]
    return Exif(numbers.get(ORIENTATION, 1), _find_time(texts))


def _read_tags(block: bytes, at: int, form: Form) -> tuple[dict[int, int], dict[int, str]]:
    """The first number, or the text, of the tags that we know."""
    numbers: dict[int, int] = {}
    texts: dict[int, str] = {}
    for entry in read_directory(block, at, form).entries:
        if entry.tag in TEXTS and entry.kind in TEXT_TYPES:
            raw = block[entry.at : entry.at + min(entry.num_values, MAX_TEXT_BYTES)]
            texts.setdefault(entry.tag, raw.lstrip(b"\0").partition(b"\0")[0].decode("latin-1").strip())
        elif entry.tag in (ORIENTATION, EXIF_DIRECTORY):
            for number in read_numbers(block, entry, form, 1):
                numbers.setdefault(entry.tag, number)
    return numbers, texts


def _find_time(texts: dict[int, str]) -> str | None:
    """The first believable time, else a day, else what a clock says that was never set.

    A day gets its time of day from another time of that day.
    """
    day, unset = None, None
    for tag, offset_tag, fraction_tag in TIMES:
        text = _tidy(texts.get(tag, ""))
        time = parse_time(text)
        if time is None or time.year not in YEARS or len(text) < MIN_LENGTH:
            continue
        if time.year in UNSET_YEARS:
            unset = unset or time
        elif len(re.findall("[0-9]", text)) <= 8 and not (time.hour or time.minute):
            day = day or time
        elif day is None or time.date() == day.date():
            if not time.microsecond:
                time = _add_fraction(time, texts.get(fraction_tag, ""))
            if time.tzinfo is None:
                time = _add_offset(time, texts.get(offset_tag, ""))
            return time.isoformat()
    found = day or unset
    return found.isoformat() if found else None


def _tidy(text: str) -> str:
    """A time without what cameras pad and end it with."""
    text = re.sub("(?<=[:/.-]) +(?=[0-9])", "", text)
    text = TAIL.sub("", UNKNOWN_OFFSET.sub("", text).strip())
    return MILLISECONDS.sub(r".\1", text)


def _add_fraction(time: datetime, digits: str) -> datetime:
    if not re.fullmatch("[0-9]{1,12}", digits):
        return time
    return time.replace(microsecond=int(digits[:6].ljust(6, "0")))


def _add_offset(time: datetime, text: str) -> datetime:
    """`time` with the offset of a tag; one that is blank, -00:00 or beyond a day is not known."""
    text = {"Z": "+00:00", "UTC": "+00:00"}.get(text.upper(), text)
    match = OFFSET.fullmatch(text)
    if not match or UNKNOWN_OFFSET.search(text):
        return time
    sign, hours, minutes = match.groups()
    if int(hours) > 14 or int(minutes or 0) > 59:
        return time
    return datetime.fromisoformat(f"{time.isoformat()}{sign}{int(hours):02}:{minutes or '00'}")
