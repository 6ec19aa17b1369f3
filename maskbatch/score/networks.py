"""A run's networks, and what they make of decoded images: the one hop with a state."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskbatch.clock import Clock
from maskbatch.config import ScoreConfig
from maskbatch.decode.images import Decode, Decoded, Shape, decode_batch, decode_image, gather_columns
from maskbatch.decode.source import Encoded
from maskbatch.decode.triage import Sorted
from maskbatch.model.card import Preset
from maskbatch.model.checkpoint import Checkpoint, DetectorFile
from maskbatch.score.rows import make_rows, make_scene_rows
from maskbatch.score.scene import DecodedFrame, Finder, decode_frames, detect_px, frame_shape

HostPixels = Decoded | Iterable[DecodedFrame]
"""Images of the model's input size, or whole scenes, one by one."""
Pixels = HostPixels | Sorted
"""Or either, of which a device decodes a part."""


def picture_shape(preset: Preset, config: ScoreConfig) -> Shape:
    """What a picture becomes before it is scored."""
    return frame_shape(detect_px(config)) if config.view == "scene" else preset


def decode_pixels(
    encoded: Iterable[Encoded],
    num_images: int,
    preset: Preset,
    config: ScoreConfig,
    decode: Decode | None = None,
) -> HostPixels:
    """Decode images in order, scenes when they are asked for; `decode` takes the place of `decode_image`."""
    if config.view == "scene":
        return decode_frames(encoded, config, decode)
    return decode_batch(encoded, num_images, preset, config.max_pixels, decode)


class Networks:
    """The classifier, and for scenes the detector before it, on one device."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        detector: DetectorFile | None,
        config: ScoreConfig,
        *,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        """`dtype` None is the config's; `device` None takes CUDA where there is one."""
        from maskbatch.model.classifier import Classifier  # torch: who only decodes does without
        from maskbatch.score.device import DeviceDecoder, Turns

        self.card = checkpoint.card
        self.classifier = Classifier(
            checkpoint, dtype=dtype or config.dtype, batch_size=config.batch_size, device=device
        )
        self.finder = Finder(detector, self.classifier, self.card.preset, config) if detector else None
        shape = picture_shape(self.card.preset, config)
        self.decoder = DeviceDecoder(shape, config.max_pixels, self.classifier.device)
        self.turns = Turns(self.classifier.device, side_by_side=config.decoder == "gpu")

    @property
    def device(self) -> str:
        """Device and dtype, such as `cpu/bfloat16`."""
        return f"{self.classifier.device}/{self.classifier.dtype_name}"

    def is_device_lost(self) -> bool:
        """Whether only another process can use the device again."""
        from maskbatch.score.device import is_lost

        return is_lost(self.classifier.device)

    def score(
        self,
        planned: pa.Table,
        pixels: Pixels,
        clock: Clock,
        keep_column: str | None = None,
        decode: Decode = lambda _, *image: decode_image(*image),
        *,
        is_device_safe: bool = True,
    ) -> pa.Table:
        """The scores rows of `planned`, whose images are `pixels`.

        Of sorted ones, `decode` decodes what the device refuses, and all where the device is not safe.
        """
        if isinstance(pixels, Decoded):
            probs_NK = self.classifier.probs(pixels.images_NHWC)
            return make_rows(planned, pixels.columns, probs_NK, self.card, clock, keep_column)
        if isinstance(pixels, Sorted) and not self.finder:
            probs_NK = self._score_faces(pixels, decode, is_device_safe=is_device_safe)
            return make_rows(planned, gather_columns(pixels.rows), probs_NK, self.card, clock, keep_column)
        assert self.finder  # noqa: S101  scenes come with a detector
        scenes = self.finder.score(
            self.decoder.decode_frames(pixels, decode, is_device_safe=is_device_safe)
            if isinstance(pixels, Sorted)
            else pixels
        )
        return make_scene_rows(planned, scenes, self.card, clock, keep_column)

    def _score_faces(self, images: Sorted, decode: Decode, *, is_device_safe: bool) -> NDArray[np.float32]:
        """Probabilities (N, K) of sorted images, zero where one is not ok; completes their rows."""
        from maskbatch.score.tensors import describe_sums, measure

        places, images_MHWC = self.decoder.decode_faces(images, decode, is_device_safe=is_device_safe)
        probs_NK = np.zeros((len(images.rows), len(self.card.classes)), np.float32)
        if places:
            sums = measure(images_MHWC.permute(0, 3, 1, 2))
            probs_NK[places] = self.classifier.probs(images_MHWC)
            described = describe_sums(sums.cpu().numpy(), self.card.input_size[::-1])
            for place, own in zip(places, described, strict=True):
                images.rows[place] |= own
        return probs_NK
