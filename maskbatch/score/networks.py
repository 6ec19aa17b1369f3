"""A run's networks, and what they make of decoded images: the one hop with a state."""

from collections.abc import Iterable

import pyarrow as pa

from maskbatch.clock import Clock
from maskbatch.config import ScoreConfig
from maskbatch.decode.images import Decode, Decoded, decode_batch
from maskbatch.decode.source import Encoded
from maskbatch.model.card import Preset
from maskbatch.model.checkpoint import Checkpoint, DetectorFile
from maskbatch.score.rows import make_rows, make_scene_rows
from maskbatch.score.scene import DecodedFrame, Finder, decode_frames

Pixels = Decoded | Iterable[DecodedFrame]
"""Images of the model's input size, or whole scenes, one by one."""


def decode_pixels(
    encoded: Iterable[Encoded],
    num_images: int,
    preset: Preset,
    config: ScoreConfig,
    decode: Decode | None = None,
) -> Pixels:
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

        self.card = checkpoint.card
        self.classifier = Classifier(
            checkpoint, dtype=dtype or config.dtype, batch_size=config.batch_size, device=device
        )
        self.finder = Finder(detector, self.classifier, self.card.preset, config) if detector else None

    @property
    def device(self) -> str:
        """Device and dtype, such as `cpu/bfloat16`."""
        return f"{self.classifier.device}/{self.classifier.dtype_name}"

    def score(
        self, planned: pa.Table, pixels: Pixels, clock: Clock, keep_column: str | None = None
    ) -> pa.Table:
        """The scores rows of `planned`, whose images are `pixels`."""
        if isinstance(pixels, Decoded):
            probs_NK = self.classifier.probs(pixels.images_NHWC)
            return make_rows(planned, pixels, probs_NK, self.card, clock, keep_column)
        assert self.finder  # noqa: S101  scenes come with a detector
        return make_scene_rows(planned, self.finder.score(pixels), self.card, clock, keep_column)
