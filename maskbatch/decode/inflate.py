"""How much a zlib stream holds, without keeping it."""

import zlib

STEP_BYTES = 1 << 16
OUTPUT_BYTES = 1 << 20


def count_inflated(data: bytes | memoryview, most: int) -> tuple[int, bool]:
    """Bytes that zlib `data` holds, not counted far beyond `most`, and whether its end was read.

    Raises zlib.error at damage, also at a wrong checksum.
    """
    inflater, count = zlib.decompressobj(), 0
    for at in range(0, len(data), STEP_BYTES):  # steps, as each call copies what it leaves
        rest: bytes | memoryview = data[at : at + STEP_BYTES]
        while rest and not inflater.eof:
            count += len(inflater.decompress(rest, OUTPUT_BYTES))
            if count > most:
                return count, inflater.eof
            rest = inflater.unconsumed_tail
        if inflater.eof:
            return count, True
    return count + len(inflater.flush()), inflater.eof
