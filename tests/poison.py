"""Images that end a worker: a real one that takes for ever, and hooks for decoders that crash, hang or swell.

No sound decoder crashes on demand, so those kinds are a sound image with a mark at its end, and a
`sitecustomize` that replaces the decoder in every process that starts: workers and sandboxes. Nothing of it is
in the package.
"""

import io
import struct
from pathlib import Path

from PIL import Image

MARK = b"POISON:"
FINDER = """
import importlib.util, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run(module), _poison(module))
        return spec

sys.meta_path.insert(0, Finder())
"""
"""Has `_poison` change MODULE as it is imported; what follows it says both."""
HOOK = (
    FINDER
    + """
MODULE = "maskbatch.decode.images"

def _poison(module):
    import os, signal, time
    decode = module.decode_image
    def act(data, *rest):
        kind = data.rpartition(b"POISON:")[2][:16]
        if kind == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif kind == b"kill":  # as the kernel, or Ray, does it for want of memory
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == b"sleep":
            time.sleep(1000)
        elif kind == b"swell":
            held = bytearray(20 * 2**30)
        elif kind.startswith(b"once:"):  # not the image's fault
            try:
                os.mkdir(os.environ["POISON_ONCE"])
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return decode(data, *rest)
    module.decode_image = act
"""
)
DEVICE_HOOK = (
    FINDER
    + """
MODULE = "maskbatch.score.device"

def _poison(module):
    import os, pathlib, signal
    decode = module.decode_jpegs
    def act(encoded, device):
        heads = [bytes(image[:64].numpy()) for image in encoded]
        if any(b"POISON:" in head for head in heads):
            pathlib.Path(__file__).with_name("ended").touch()
        if any(b"POISON:crash" in head for head in heads):
            os.kill(os.getpid(), signal.SIGSEGV)
        if any(b"POISON:break" in head for head in heads):
            module.is_lost = lambda device: True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return decode(encoded, device)
    module.decode_jpegs = act
"""
)


def write_device_hook(folder: Path) -> Path:
    """As `write_hook`: what decodes on the device crashes at a poisoned JPEG, or breaks the device."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(DEVICE_HOOK)
    return folder


def write_hook(folder: Path) -> Path:
    """A folder for PYTHONPATH."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(HOOK)
    return folder


def poison_header(image: bytes, kind: str) -> bytes:
    """A JPEG that is as plain as before, for the hook of the device."""
    comment = MARK + kind.encode()
    return image[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment + image[2:]


def poison(image: bytes, kind: str) -> bytes:
    """A sound image, on which the hooked decoder does what `kind` says; for all others it stays sound."""
    return image + MARK + kind.encode()


def many_scans(size: tuple[int, int], num_scans: int) -> bytes:
    """A grey progressive JPEG of `num_scans` scans, each of which refines nothing, in every block.

    Source: ITU-T T.81, G.1.2.2: an end-of-band run of category 14 covers 16,384 blocks and more.
    """
    sink = io.BytesIO()
    Image.linear_gradient("L").resize(size).save(sink, "JPEG", progressive=True, optimize=False)
    head = sink.getvalue()
    end = head.index(b"\xff\xda")  # the first scan, of DC, ends where the next marker begins
    while not (head[end] == 0xFF and head[end + 1] in (0xC4, 0xDA) and end > head.index(b"\xff\xda")):
        end += 1
    runs = bytes(category << 4 for category in range(15))
    table = b"\x10" + bytes((0, 0, 0, 15, *[0] * 12)) + runs  # AC table 0: 15 codes of four bits
    bits, blocks = "", -(-size[0] // 8) * -(-size[1] // 8)
    while blocks:
        category = min(blocks.bit_length() - 1, 14)
        covered = min(blocks, 2 ** (category + 1) - 1)
        bits += f"{category:04b}" + (f"{covered - 2**category:0{category}b}" if category else "")
        blocks -= covered
    bits += "1" * (-len(bits) % 8)
    coded = b"".join(
        b"\xff\0" if byte == 0xFF else bytes((byte,))
        for byte in (int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    )
    first, again = (
        b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 63, bits) + coded for bits in (0x01, 0x10)
    )
    scans = first + again * (num_scans - 1)
    return head[:end] + b"\xff\xc4" + struct.pack(">H", 2 + len(table)) + table + scans + b"\xff\xd9"
