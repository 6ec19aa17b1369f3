"""Where the blocks of a baseline JPEG's scan end, to tell stray bytes from damage.

A decoder says only that bytes were left over. Some webcams write a few after each piece of data, and their
pictures are whole; after a spoilt bit bytes are left over too. Here the blocks are counted: in whole data
each piece holds exactly its blocks, no block more than 64 coefficients, and one bits fill the last byte.
Source: ITU-T T.81, annexes C and F.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_PIECE_BYTES = 4 * 2**20
"""Of one piece; tables of 64 bytes for each of its bytes are made."""
FEW_STRAYS = 4
RESTART = re.compile(rb"\xff+([\xd0-\xd7])")
END_OF_BLOCK, INVALID = 200, 65
"""Added to a coefficient's number; between 64 and END_OF_BLOCK lie blocks that no encoder writes."""
MAX_DC = 1100
"""Of a mean, times 8, less 1,024; encoders round it by a quantum or two."""


@dataclass(frozen=True, slots=True)
class Component:
    """One colour of a JPEG: its sampling, and the table of its quanta."""

    name: int
    across: int
    down: int
    quanta: int


@dataclass(frozen=True, slots=True)
class Scan:
    """How the blocks of a scan follow each other."""

    blocks: list[tuple[int, int, int]]
    """(component, DC table, AC table) of each block of an MCU; numbers of AC tables have 16 added."""
    num_mcus: int
    restart_interval: int
    """In MCUs; all of them where there are no restarts."""
    steps: dict[int, NDArray[np.uint16]]
    """By table, for each 16 bits: the bits to go on, plus 256 times the coefficients."""
    dc_bits: dict[int, NDArray[np.uint16]]
    """By DC table, for each 16 bits: how many bits the value has."""
    quanta: dict[int, int]
    """Of the mean, by component."""


def trim_scan(head: bytes, data: bytes, size: tuple[int, int], components: list[Component]) -> bytes | None:
    """A scan's data without stray bytes before markers, or None where its blocks are not whole.

    head: segments from after SOI to the scan's header, with nothing between them.
    """
    try:
        scan = _read_scan(head, size, components)
        pieces = RESTART.split(data)
        return _trim(scan, pieces[::2], pieces[1::2])
    except (IndexError, KeyError, ValueError, ZeroDivisionError):
        return None


def _trim(scan: Scan, pieces: list[bytes], markers: list[bytes]) -> bytes | None:
    expected = [bytes([0xD0 + k % 8]) for k in range((scan.num_mcus - 1) // scan.restart_interval)]
    if markers != expected:
        return None
    trimmed = []
    for k, piece in enumerate(pieces):
        num_mcus = min(scan.restart_interval, scan.num_mcus - k * scan.restart_interval)
        plain = piece.rstrip(b"\xff").replace(b"\xff\0", b"\xff")
        num_bytes = _measure(scan, plain, num_mcus)
        if num_bytes is None:
            return None
        marker = b"\xff" + markers[k] if k < len(markers) else b""
        trimmed.append(plain[:num_bytes].replace(b"\xff", b"\xff\0") + marker)
    return b"".join(trimmed)


def _measure(scan: Scan, plain: bytes, num_mcus: int) -> int | None:
    """Bytes that the MCUs take of a piece, or None where they are not whole."""
    if len(plain) > MAX_PIECE_BYTES:
        return None
    windows = _make_windows(plain)
    steps = {table: step[windows].data for table, step in scan.steps.items()}
    means: list[tuple[int, int, int]] = []
    end = _walk(scan, steps, num_mcus, 0, means)
    if end is None or end > 8 * len(plain) or not _are_in_range(scan, windows, means):
        return None
    num_bytes = (end + 7) // 8
    fill = (1 << (-end % 8)) - 1
    if plain[num_bytes - 1] & fill != fill:
        return None
    if len(plain) - num_bytes > FEW_STRAYS and _holds_blocks(scan, steps, end, 8 * len(plain)):
        return None
    return num_bytes


def _make_windows(plain: bytes) -> NDArray[np.uint16]:
    """The 16 bits from each bit on; one bits follow the end."""
    padded = np.frombuffer(plain + b"\xff" * 12, np.uint8).astype(np.uint32)
    three = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    return (three[:, None] >> np.arange(8, 0, -1, dtype=np.uint32)).astype(np.uint16).ravel()


def _walk(
    scan: Scan, steps: dict[int, memoryview], num_mcus: int, at: int, means: list[tuple[int, int, int]]
) -> int | None:
    """The bit after so many MCUs, or None at an impossible block; adds (component, table, bit) to `means`."""
    blocks = [(part, dc, steps[dc], steps[ac]) for part, dc, ac in scan.blocks]
    for _ in range(num_mcus):
        for part, dc, dc_steps, ac_steps in blocks:
            means.append((part, dc, at))
            step = dc_steps[at]
            at += step & 255
            k = step >> 8
            while k < 64:
                step = ac_steps[at]
                at += step & 255
                k += step >> 8
            if 64 < k < END_OF_BLOCK:
                return None
    return at


def _holds_blocks(scan: Scan, steps: dict[int, memoryview], at: int, num_bits: int) -> bool:
    """Whether what is left over are more MCUs, to the bits that fill the last byte."""
    while num_bits - at >= 8:
        end = _walk(scan, steps, 1, at, [])
        if end is None or end > num_bits:
            return False
        at = end
    return True


def _are_in_range(scan: Scan, windows: NDArray[np.uint16], means: list[tuple[int, int, int]]) -> bool:
    """Whether every block's mean is one that samples of 8 bits can have."""
    parts, tables, at = np.array(means, np.int64).reshape(-1, 3).T
    for part, quantum in scan.quanta.items():
        mine = at[parts == part]
        table = int(tables[parts == part][0])
        found = windows[mine]
        size = scan.dc_bits[table][found].astype(np.int64)
        length = (scan.steps[table][found] & 255) - size
        value = windows[mine + length].astype(np.int64) >> (16 - size)
        change = np.where(value < (1 << size) >> 1, value - (1 << size) + 1, value)
        if np.abs(np.cumsum(change)).max() * quantum > MAX_DC + 2 * quantum:
            return False
    return True


def _read_scan(head: bytes, size: tuple[int, int], components: list[Component]) -> Scan:
    """Raises IndexError, KeyError or ValueError where the tables of a scan are not whole."""
    steps: dict[int, NDArray[np.uint16]] = {}
    dc_bits: dict[int, NDArray[np.uint16]] = {}
    quanta: dict[int, int] = {}
    restart_interval, at = 0, 0
    while True:
        marker, end = head[at + 1], at + 2 + int.from_bytes(head[at + 2 : at + 4], "big")
        content = head[at + 4 : end]
        if marker == 0xDB:
            quanta |= _read_quanta(content)
        elif marker == 0xC4:
            _read_codes(content, steps, dc_bits)
        elif marker == 0xDD:
            restart_interval = int.from_bytes(content[:2], "big")
        elif marker == 0xDA:
            break
        at = end
    chosen = dict(zip(content[1 : 1 + 2 * content[0] : 2], content[2 : 2 + 2 * content[0] : 2], strict=True))
    parts = [part for part in components if part.name in chosen]
    blocks = []
    for k, part in enumerate(parts):
        num_blocks = part.across * part.down if len(parts) > 1 else 1
        blocks += [(k, chosen[part.name] >> 4, 16 + (chosen[part.name] & 15))] * num_blocks
    num_mcus = _count_mcus(size, parts, components)
    return Scan(
        blocks, num_mcus, restart_interval or num_mcus, steps, dc_bits,
        {k: quanta[part.quanta] for k, part in enumerate(parts)},
    )  # fmt: skip


def _count_mcus(size: tuple[int, int], parts: list[Component], components: list[Component]) -> int:
    """MCUs of a scan of `parts`: of one component they are its blocks."""
    across, down = max(part.across for part in components), max(part.down for part in components)
    if len(parts) > 1:
        return -(-size[0] // (8 * across)) * -(-size[1] // (8 * down))
    wide, high = -(-size[0] * parts[0].across // across), -(-size[1] * parts[0].down // down)
    return -(-wide // 8) * -(-high // 8)


def _read_quanta(content: bytes) -> dict[int, int]:
    """The mean's quantum by table."""
    quanta = {}
    while content:
        width = 2 if content[0] >> 4 else 1
        quanta[content[0] & 15] = int.from_bytes(content[1 : 1 + width], "big")
        content = content[1 + 64 * width :]
    return quanta


def _read_codes(
    content: bytes, steps: dict[int, NDArray[np.uint16]], dc_bits: dict[int, NDArray[np.uint16]]
) -> None:
    """Add the Huffman tables of one segment to `steps`, and those of means to `dc_bits` too."""
    while content:
        is_ac, table = content[0] >> 4, content[0]
        lengths = [length for length in range(1, 17) for _ in range(content[length])]
        step, bits = np.full(1 << 16, INVALID << 8, np.uint16), np.zeros(1 << 16, np.uint16)
        first = 0
        for length, symbol in zip(lengths, content[17 : 17 + len(lengths)], strict=True):
            run, size = (symbol >> 4, symbol & 15) if is_ac else (0, symbol)
            num = END_OF_BLOCK if is_ac and size == 0 and run < 15 else run + 1
            last = first + (1 << (16 - length))
            step[first:last] = length + size + 256 * num
            bits[first:last] = size
            first = last
        steps[table] = step
        if not is_ac:
            dc_bits[table] = bits
        content = content[17 + len(lengths) :]
