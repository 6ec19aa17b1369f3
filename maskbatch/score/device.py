"""Sorted images to pictures on a device, where they stay until they are scored.

nvJPEG decodes on CUDA. On a CPU, where tests have a GPU only by name, libjpeg takes its place.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from maskbatch.decode.images import OF_PICTURE, Decode, Row, Shape, Whole, count_halvings
from maskbatch.decode.triage import Plain, Sorted
from maskbatch.errors import ImageError, UsageError
from maskbatch.model.architectures import import_torchvision
from maskbatch.model.card import Preset
from maskbatch.model.classifier import upload
from maskbatch.score import tensors
from maskbatch.score.scene import frame_square

MAX_BATCH = 128
"""Pictures that are decoded at a time: more make nvJPEG no faster."""
MAX_BATCH_BYTES = 2**30
"""Of decoded pictures at a time."""
PIECE_BYTES = 2**27
"""Of those, what is reduced at a time; it takes three times as much meanwhile, and five times on a CPU."""
CHECK_PX = 64
Tensor = torch.Tensor


@dataclass(slots=True)
class DeviceFrame:
    """As `score.scene.Frame`, on a device."""

    image_CHW: Tensor
    """uint8 RGB, upright."""
    size: tuple[int, int]
    """(W, H) of the source, upright."""

    @property
    def shown(self) -> tuple[int, int]:
        height, width = self.image_CHW.shape[1:]
        return width, height

    @property
    def pixels(self) -> Tensor:
        return self.image_CHW.permute(1, 2, 0)

    def shrink(self, longest_px: int) -> Self:
        scale = longest_px / max(self.shown)
        if scale >= 1:
            return self
        width, height = (max(1, round(side * scale)) for side in self.shown)
        return type(self)(tensors.resize(self.image_CHW[None], (width, height))[0], self.size)

    def fit(self, preset: Preset) -> Self:
        image_CHW = tensors.fit(self.image_CHW[None], preset, preset.input_size[::-1])[0]
        return type(self)(image_CHW, self.size)

    def cut(self, box: Sequence[float], preset: Preset) -> Self:
        left, top, right, bottom = frame_square(box, self.size, self.shown)
        return type(self)(self.image_CHW[:, top:bottom, left:right], self.size).fit(preset)

    @staticmethod
    def describe_all(frames: Sequence["DeviceFrame"]) -> list[Row]:
        sums = tensors.measure(torch.stack([frame.image_CHW for frame in frames]))
        return tensors.describe_sums(sums.cpu().numpy(), frames[0].shown)


class DeviceDecoder:
    """Makes pictures of one shape of sorted images."""

    def __init__(self, shape: Shape, max_pixels: int, device: str) -> None:
        self.shape, self.max_pixels, self.device = shape, max_pixels, device

    @torch.inference_mode()
    def check(self) -> None:
        """Decode a picture, which loads what all need. Raises UsageError where the device cannot."""
        sink = BytesIO()
        Image.new("RGB", (CHECK_PX, CHECK_PX)).save(sink, "JPEG")
        try:
            self._decode_all([Plain(sink.getvalue(), CHECK_PX, CHECK_PX, orientation=1, exif_time=None)])
        except RuntimeError as error:
            why = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            remedy = "install a torchvision with nvJPEG there, or leave out --decoder gpu"
            raise UsageError(f"a GPU worker cannot decode JPEGs on its device ({why}); {remedy}") from error

    @torch.inference_mode()
    def decode_faces(
        self, images: Sorted, decode: Decode, *, is_device_safe: bool = True
    ) -> tuple[list[int], Tensor]:
        """The places of those that are ok, and these (M, H, W, 3) uint8; see `decode`."""
        pictures = enumerate(self.decode(images, decode, is_device_safe=is_device_safe))
        found = [(place, image_CHW) for place, image_CHW in pictures if image_CHW is not None]
        if not found:
            return [], torch.zeros((0, 8, 8, 3), dtype=torch.uint8, device=self.device)
        return [place for place, _ in found], torch.stack([image for _, image in found]).permute(0, 2, 3, 1)

    def decode_frames(
        self, images: Sorted, decode: Decode, *, is_device_safe: bool = True
    ) -> Iterator[tuple[Row, DeviceFrame | None]]:
        """Each row and its frame, in order; see `decode`. No more than a batch of frames waits."""
        pictures = self.decode(images, decode, is_device_safe=is_device_safe)
        for row, image_CHW in zip(images.rows, pictures, strict=True):
            size: tuple[int, int] = (row["width"], row["height"])  # type: ignore[assignment]
            yield row, None if image_CHW is None else DeviceFrame(image_CHW, size)

    def decode(self, images: Sorted, decode: Decode, *, is_device_safe: bool) -> Iterator[Tensor | None]:
        """Each picture (3, H, W) uint8 of the shape, on the device, in order; None where it is not ok.

        What the device refuses `decode` decodes on the host; an ImageError of it goes to the image's row. So
        it is with all images where the device is not safe.
        """
        for places in _batch(images.images):
            plain = {place: image for place in places if isinstance(image := images.images[place], Plain)}
            decoded = self._decode_plain(list(plain.values())) if is_device_safe else [None] * len(plain)
            pictures = dict(zip(plain, decoded, strict=True))
            del decoded
            for place in places:
                picture, image = pictures.pop(place, None), images.images[place]
                if picture is None and isinstance(image, Plain):
                    image = self._decode_here(place, image, images.rows[place], decode)
                yield self._upload(image) if isinstance(image, np.ndarray) else picture

    def _decode_here(self, place: int, plain: Plain, row: Row, decode: Decode) -> NDArray[np.uint8] | None:
        try:
            picture = decode(place, bytes(plain.data), self.shape, self.max_pixels)
        except ImageError as error:
            row |= {"status": error.status, "error": error.message, **dict.fromkeys(OF_PICTURE)}
            return None
        return np.asarray(picture.image)

    def _upload(self, image_HWC: NDArray[np.uint8]) -> Tensor:
        return upload(image_HWC, self.device).permute(2, 0, 1)

    @torch.inference_mode()
    def _decode_plain(self, plains: Sequence[Plain]) -> list[Tensor | None]:
        """The pictures of the shape; None for what the device refuses. A batch that fails is halved."""
        if not plains:
            return []
        try:
            return self._decode_all(plains)
        except RuntimeError:  # nvJPEG's for what it does not take, and where memory is short
            if is_lost(self.device):
                raise
            release_memory(self.device)
        if len(plains) == 1:
            return [None]
        middle = len(plains) // 2
        return self._decode_plain(plains[:middle]) + self._decode_plain(plains[middle:])

    def _decode_all(self, plains: Sequence[Plain]) -> list[Tensor | None]:
        """As `_decode_plain`. Raises RuntimeError."""
        return self._finish(plains, decode_jpegs([view(plain.data) for plain in plains], self.device))

    def _finish(self, plains: Sequence[Plain], decoded: Sequence[Tensor]) -> list[Tensor | None]:
        """Decoded pictures (3, H, W), which are as stored, in their shape; None for those of another size."""
        finished: list[Tensor | None] = [None] * len(plains)
        for places in _group(plains, decoded):
            size, orientation = plains[places[0]].stored_size, plains[places[0]].orientation
            images_NCHW = torch.stack([decoded[place] for place in places])
            shaped_NCHW = self._shape(images_NCHW, size, is_swapped=orientation > 4)
            for place, image_CHW in zip(places, tensors.turn(shaped_NCHW, orientation), strict=True):
                finished[place] = image_CHW
        return finished

    def _shape(self, images_NCHW: Tensor, size: tuple[int, int], *, is_swapped: bool) -> Tensor:
        if isinstance(self.shape, Whole):
            return tensors.halve(images_NCHW, count_halvings(size, self.shape))
        height, width = self.shape.input_size
        return tensors.fit(images_NCHW, self.shape, (height, width) if is_swapped else (width, height))


def _batch(images: Sequence[Plain | NDArray[np.uint8] | None]) -> Iterator[list[int]]:
    """The places of images that are decoded together."""
    places, num_bytes = list[int](), 0
    for place, image in enumerate(images):
        own = 3 * image.width * image.height if isinstance(image, Plain) else 0
        if places and (len(places) == MAX_BATCH or num_bytes + own > MAX_BATCH_BYTES):
            yield places
            places, num_bytes = [], 0
        places.append(place)
        num_bytes += own
    if places:
        yield places


def _group(plains: Sequence[Plain], decoded: Sequence[Tensor]) -> Iterator[list[int]]:
    """The places of pictures that are reduced together: of one size, which is the header's, and one turn."""
    groups = defaultdict[tuple[int, tuple[int, int]], list[int]](list)
    for place, (plain, image_CHW) in enumerate(zip(plains, decoded, strict=True)):
        if tuple(image_CHW.shape) == (3, *plain.stored_size[::-1]):
            groups[plain.orientation, plain.stored_size].append(place)
    for (_, size), places in groups.items():
        num_pictures = max(1, PIECE_BYTES // (3 * size[0] * size[1]))
        for start in range(0, len(places), num_pictures):
            yield places[start : start + num_pictures]


def view(data: bytes | memoryview) -> Tensor:
    """Bytes (N,) uint8 as they lie in memory, which is only to be read."""
    buffer = pa.py_buffer(data)
    array = pa.Array.from_buffers(pa.uint8(), len(buffer), [None, buffer])
    tensor: Tensor = torch.utils.dlpack.from_dlpack(array)
    return tensor


def decode_jpegs(encoded: list[Tensor], device: str) -> list[Tensor]:
    """JPEGs, each (N,) uint8 on the host, as RGB (3, H, W) uint8 on the device.

    Raises RuntimeError where the device refuses one of them.
    """
    io = import_torchvision().io
    if device != "cpu":
        # It decodes in a stream of its own, into memory that kernels of ours may still be reading.
        torch.cuda.current_stream(device).synchronize()
    decoded: list[Tensor] = io.decode_jpeg(encoded, io.ImageReadMode.RGB, device)
    return decoded


def is_lost(device: str) -> bool:
    """Whether nothing works on this device any more before this process ends."""
    try:
        if device != "cpu":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def release_memory(device: str) -> None:
    """Give back what torch keeps for later: nvJPEG has its own memory on the device."""
    if device != "cpu":
        torch.cuda.empty_cache()


class Turns:
    """How threads share a device: one at a time, or on CUDA side by side, each in a stream of its own."""

    def __init__(self, device: str, *, side_by_side: bool) -> None:
        self.lock = threading.RLock()
        """For what only one thread of a process does at a time."""
        self._are_streams = side_by_side and device != "cpu"
        self._own = threading.local()

    def take(self) -> AbstractContextManager[object]:
        if not self._are_streams:
            return self.lock
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream: AbstractContextManager[object] = torch.cuda.stream(self._own.stream)
        return stream
