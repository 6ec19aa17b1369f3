"""What a JPEG's header says of the blocks of its scan: how they follow each other, and their Huffman codes.

Source: ITU-T T.81, annexes A.2, B.2, C and K.3.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import simplejpeg

MAX_MCU_BLOCKS = 10
END_OF_BLOCK, INVALID = 200, 65
"""Added to a coefficient's number; between 64 and END_OF_BLOCK lie blocks that no encoder writes."""
MAX_DC_BITS = 11
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
class Block:
    """One block of an MCU. Its tables give, for each 16 bits, the bits to go on plus 256 times a number."""

    component: int
    max_mean: int
    """Largest that samples of 8 bits can have, in quanta."""
    dc: memoryview
    """The number is that of the value's bits."""
    ac: memoryview
    """The number is that of the coefficients."""
    ac_pairs: memoryview
    """Two coefficients at once where 16 bits hold the codes of both."""


@dataclass(frozen=True, slots=True)
class Scan:
    """How the blocks of a scan follow each other."""

    blocks: list[Block]
    """Of one MCU."""
    num_mcus: int
    restart_interval: int
    """In MCUs; all of them where there are no restarts."""


def read_scan(segments: list[bytes], size: tuple[int, int], components: list[Component]) -> Scan | None:
    """None where a table is missing, or a number impossible."""
    own, quanta, restart_interval = read_segments(segments)
    tables = _standard_tables() | own
    count = segments[-1][4]
    chosen = dict(zip(segments[-1][5 : 5 + 2 * count : 2], segments[-1][6 : 6 + 2 * count : 2], strict=False))
    parts = [part for part in components if part.name in chosen]
    if not all(part.across and part.down for part in components) or not parts:
        return None
    blocks: list[Block] = []
    for k, part in enumerate(parts):
        dc, ac = chosen[part.name] >> 4, 16 + (chosen[part.name] & 15)
        if not quanta.get(part.quanta) or dc not in tables or ac not in tables:
            return None
        steps, pairs = _make_table(tables[ac], True)
        block = Block(k, MAX_DC // quanta[part.quanta] + 2, _make_table(tables[dc], False)[0], steps, pairs)
        blocks += [block] * (part.across * part.down if len(parts) > 1 else 1)
    num_mcus = count_mcus(size, parts, components)
    if len(blocks) > MAX_MCU_BLOCKS or not num_mcus:
        return None
    return Scan(blocks, num_mcus, restart_interval or num_mcus)


def read_segments(segments: Iterable[bytes]) -> tuple[dict[int, bytes], dict[int, int], int]:
    """Huffman tables and the mean's quantum, by number, and the restart interval; 0 where there is none."""
    tables, quanta, restart_interval = dict[int, bytes](), dict[int, int](), 0
    for segment in segments:
        if segment[1:2] == b"\xdb":
            quanta |= _read_quanta(segment[4:])
        elif segment[1:2] == b"\xc4":
            tables |= _read_tables(segment[4:])
        elif segment[1:2] == b"\xdd":
            restart_interval = int.from_bytes(segment[4:6], "big")
    return tables, quanta, restart_interval


def count_mcus(size: tuple[int, int], parts: list[Component], components: list[Component]) -> int:
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


def _read_tables(content: bytes) -> dict[int, bytes]:
    """The Huffman tables that are whole: how many codes of each length, then the symbols."""
    tables = {}
    while len(content) >= 17:
        end = 17 + sum(content[1:17])
        if end <= len(content):
            tables[content[0]] = content[1:end]
        content = content[end:]
    return tables


@lru_cache(maxsize=64)
def is_prefix_code(content: bytes, *, is_ac: bool) -> bool:
    """Whether libjpeg takes this Huffman table: no code is all ones, and means have at most 11 bits."""
    used = sum(count << (16 - length) for length, count in enumerate(content[:16], 1))
    return 0 < used < 1 << 16 and (is_ac or max(content[16:]) <= MAX_DC_BITS)


@cache
def _standard_tables() -> dict[int, bytes]:
    """Of annex K.3, by number; those of AC have 16 added. Cameras that send video leave them out."""
    tables: dict[int, bytes] = {}
    for segment in simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)).split(b"\xff\xc4")[1:]:
        tables |= _read_tables(segment[2 : int.from_bytes(segment[:2], "big")])
    return tables


@lru_cache(maxsize=16)
def _make_table(content: bytes, is_ac: bool) -> tuple[memoryview, memoryview]:
    """Steps by 16 bits, and two steps at once where the codes of both are among them."""
    counts = np.frombuffer(content[:16], np.uint8)
    lengths = np.repeat(np.arange(1, 17), counts)
    symbols = np.frombuffer(content[16:], np.uint8).astype(np.int64)
    run, size = (symbols >> 4, symbols & 15) if is_ac else (symbols, symbols)
    num = np.where((size == 0) & (run < 15), END_OF_BLOCK, run + 1) if is_ac else size
    spans = 1 << (16 - lengths)
    steps, codes = np.full(1 << 16, INVALID << 8), np.full(1 << 16, 17)
    num_known = min(spans.sum(), 1 << 16)
    steps[:num_known] = np.repeat(lengths + size + 256 * num, spans)[:num_known]
    codes[:num_known] = np.repeat(lengths, spans)[:num_known]
    following = (np.arange(1 << 16) << (steps & 255)) & 0xFFFF
    is_pair = (steps >> 8 <= 16) & ((steps & 255) + codes[following] <= 16)
    pairs = np.where(is_pair, steps + steps[following], steps)
    return steps.astype(np.uint16).data, pairs.astype(np.uint16).data
