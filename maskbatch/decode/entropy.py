"""Where the blocks of a baseline JPEG's scan end, to tell stray bytes from damage.

A decoder says only that bytes were left over. Some webcams write a few after each piece of data, and their
pictures are whole; after a spoilt bit bytes are left over too. Here the blocks are counted: in whole data
each piece holds exactly its blocks, no block more than 64 coefficients, one bits fill the last byte, and what
is left over does not look like lost blocks.
Source: ITU-T T.81, annex F.
"""

import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from maskbatch.decode.huffman import END_OF_BLOCK, MAX_DC_BITS, MAX_MCU_BLOCKS, Component, Scan, read_scan

MAX_BYTES = 12 * 2**20
"""To count the blocks of: 1 MB takes 0.2 s, and 24 MB of memory."""
LEAST_PIECE_BYTES = 256
"""A piece between restarts takes as long as so many bytes, however short it is."""
FEW_STRAYS = 4
"""Damaged data rarely leaves so few bytes; many cameras do."""
MAX_PERIOD = 4
"""Of a pattern that fills space, in bytes."""
ALIKE = 0.9
"""Share of the pieces that end in the same bytes where a camera adds them."""
MARGIN_BYTES = 4_096
"""An MCU has up to 10 blocks of 64 coefficients of 31 bits."""
RESTART = re.compile(rb"\xff([\xd0-\xd7])")
SURELY_INSIDE = 48
"""Below it, no single step ends a block: two are taken at once."""


def trim_scan(
    segments: list[bytes],
    data: bytes,
    size: tuple[int, int],
    components: list[Component],
    num_strays: int,
) -> bytes | None:
    """A scan's data without stray bytes before markers, or None where its blocks are not whole.

    segments: from after SOI to the scan's header.
    num_strays: what the decoder counted before the end marker, if that was its first complaint; or 0.
    """
    scan = read_scan(segments, size, components)
    raw = RESTART.split(data)
    pieces, markers = raw[::2], raw[1::2]
    if scan is None or len(markers) != (scan.num_mcus - 1) // scan.restart_interval:
        return None
    if any(marker[0] != 0xD0 + k % 8 for k, marker in enumerate(markers)):
        return None
    first = len(pieces) - 1 if num_strays else 0
    plains = [piece.rstrip(b"\xff").replace(b"\xff\0", b"\xff") for piece in pieces[first:]]
    if sum(max(len(plain), LEAST_PIECE_BYTES) for plain in plains) > MAX_BYTES:
        return cut_strays(data, num_strays)
    trimmed = _trim(scan, first, plains)
    if trimmed is None:
        return None
    pieces[first:] = [plain.replace(b"\xff", b"\xff\0") for plain in trimmed]
    ends = [b"\xff" + marker for marker in markers] + [b""]
    return b"".join(piece + end for piece, end in zip(pieces, ends, strict=True))


def cut_strays(data: bytes, num_strays: int) -> bytes | None:
    """A scan's data without what the decoder counted at its end; None where that may be lost blocks."""
    data = data.rstrip(b"\xff")
    end = len(data) - num_strays
    return data[:end] if _is_filling(data[end:]) else None


def _is_filling(strays: bytes) -> bool:
    """Whether these are few, or repeat, which damaged data does not."""
    periods = range(1, min(MAX_PERIOD, len(strays) // 2) + 1)
    return len(strays) <= FEW_STRAYS or any(strays[k:] == strays[:-k] for k in periods)


def _trim(scan: Scan, first: int, plains: list[bytes]) -> list[bytes] | None:
    """The pieces from number `first` on without what is left over, or None where that may be lost blocks."""
    windows = _make_windows(b"".join(plains)).data
    trimmed, strays, start, end = [], [], 0, 0
    for k, plain in enumerate(plains, first):
        num_mcus = min(scan.restart_interval, scan.num_mcus - k * scan.restart_interval)
        reached = _walk(scan, windows, start, num_mcus)
        if reached is None or reached - start > 8 * len(plain):
            return None
        end = reached
        num_bytes, fill = (end - start + 7) // 8, (1 << (-end % 8)) - 1
        if plain[num_bytes - 1] & fill != fill:
            return None
        trimmed.append(plain[:num_bytes])
        strays.append(plain[num_bytes:])
        start += 8 * len(plain)
    is_last_lost = not _is_filling(strays[-1]) and _holds_blocks(scan, windows, end, start)
    return None if is_last_lost or not _are_harmless(strays[:-1]) else trimmed


def _are_harmless(strays: list[bytes]) -> bool:
    """Whether what is left over before each restart is few, fills space, or is the same nearly everywhere."""
    usual, count = Counter(strays).most_common(1)[0] if strays else (b"", 0)
    is_usual = count > 1 and count >= ALIKE * len(strays)
    return all(_is_filling(each) or (is_usual and each == usual) for each in strays)


def _make_windows(plain: bytes) -> NDArray[np.uint16]:
    """The 16 bits from each bit on; one bits follow the end."""
    padded = np.frombuffer(plain + b"\xff" * MARGIN_BYTES, np.uint8).astype(np.uint16)
    pairs, third = padded[:-2] << 8 | padded[1:-1], padded[2:]
    windows = np.empty((len(pairs), 8), np.uint16)
    for bit in range(8):
        windows[:, bit] = pairs << bit | third >> (8 - bit)
    return windows.ravel()


def _walk(scan: Scan, windows: memoryview, at: int, num_mcus: int) -> int | None:
    """The bit after so many MCUs from bit `at` on, or None at an impossible block or after the end."""
    blocks = [(each.component, each.max_mean, each.dc, each.ac, each.ac_pairs) for each in scan.blocks]
    means, end = [0] * MAX_MCU_BLOCKS, len(windows) - 8 * MARGIN_BYTES + 16
    for _ in range(num_mcus):
        for component, max_mean, dc, ac, ac_pairs in blocks:
            step = dc[windows[at]]
            at += step & 255
            size = step >> 8
            if size:
                if size > MAX_DC_BITS:
                    return None
                value = windows[at - size] >> (16 - size)
                means[component] += value if value >> (size - 1) else value - (1 << size) + 1
                if not -max_mean <= means[component] <= max_mean:
                    return None
            k = 1
            while k < SURELY_INSIDE:
                step = ac_pairs[windows[at]]
                at += step & 255
                k += step >> 8
            while k < 64:
                step = ac[windows[at]]
                at += step & 255
                k += step >> 8
            if 64 < k < END_OF_BLOCK:
                return None
        if at > end:
            return None
    return at


def _holds_blocks(scan: Scan, windows: memoryview, at: int, end: int) -> bool:
    """Whether what is left over are more MCUs, to the bits that fill the last byte."""
    while end - at >= 8:
        after = _walk(scan, windows, at, 1)
        if after is None or after > end:
            return False
        at = after
    return True
