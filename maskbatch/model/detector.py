"""A face detector on its device: one picture of any size in, its faces out."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from maskbatch.errors import UsageError
from maskbatch.model.architectures import import_torchvision
from maskbatch.model.checkpoint import DetectorFile
from maskbatch.model.classifier import Images, load_weights, resolve_dtype, stack, upload
from maskbatch.model.face_networks import NETWORKS

STEP_PX = 32
"""Networks halve a picture five times: its sides are padded to multiples of this."""
BATCH_SIZE = 16
"""Pictures that the network sees at a time on a GPU."""
MAX_CANDIDATES = 4096
"""Of more boxes only the surest are compared with each other; noise can give tens of thousands."""


@dataclass(frozen=True, slots=True)
class Faces:
    """The faces of one picture, the surest first."""

    boxes_K4: NDArray[np.float32]
    """x0, y0, x1, y1 in pixels, clipped to the picture."""
    confidence_K: NDArray[np.float32]
    eyes_K22: NDArray[np.float32]
    """x, y of the left and of the right eye as one sees them; they may lie outside of the picture."""

    def __len__(self) -> int:
        return len(self.confidence_K)


class Detector:
    """A detector's network, ready to find faces."""

    def __init__(self, opened: DetectorFile, *, dtype: str, device: str | None = None) -> None:
        """Load the weights strictly and move them to the device; None takes CUDA where there is one."""
        card = opened.card
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype: torch.dtype = getattr(torch, resolve_dtype(dtype, self.device))
        self.threshold, self.nms_iou = card.threshold, card.nms_iou
        self.batch_size = 1 if self.device == "cpu" else BATCH_SIZE
        if self.device == "cpu":
            torch.set_num_threads(1)  # one worker a core beats one worker with many threads
        try:
            network = NETWORKS[card.architecture](**card.options)
        except (KeyError, TypeError) as error:
            what = f"architecture {card.architecture!r} with options {card.options}"
            known = f"{' or '.join(NETWORKS)} without options expected"
            raise UsageError(f"detector {opened.path}: {what}, {known}") from error
        load_weights(network, opened)
        self.network = network.eval().to(self.device, self.dtype).to(memory_format=torch.channels_last)
        self.network.heads.float()
        self.nms = import_torchvision().ops.nms

    def detect(self, image_HWC: NDArray[np.uint8]) -> Faces:
        """Find the faces of a picture (H, W, 3) uint8 RGB of any size.

        Raises ValueError where the network gives numbers that are not finite.
        """
        (faces,) = self.detect_all([image_HWC])
        if faces is None:
            raise ValueError("the detector's output is not a finite number")
        return faces

    @torch.inference_mode()
    def detect_all(self, images: Sequence[Images]) -> list[Faces | None]:
        """As `detect`, of each picture; None where numbers are not finite. Pictures may lie on the device.

        On a GPU pictures of one size share batches of BATCH_SIZE; on a CPU none changes the faces of another.
        """
        batch_size = self.batch_size
        found: list[Faces | None] = [None] * len(images)
        by_size = defaultdict[tuple[int, ...], list[int]](list)
        for place, image_HWC in enumerate(images):
            by_size[tuple(image_HWC.shape)].append(place)
        for places in by_size.values():
            for start in range(0, len(places), batch_size):
                own = places[start : start + batch_size]
                batch = [images[place] for place in own]
                batch += batch[-1:] * (batch_size - len(batch))
                faces_NP9 = self.network(self._pad(stack(batch)))
                for place, faces_P9 in zip(own, faces_NP9, strict=False):
                    found[place] = self._select(faces_P9, images[place].shape)
        return found

    def _select(self, faces: torch.Tensor, shape: Sequence[int]) -> Faces | None:
        """The faces (P, 9) of a picture (H, W, 3) that are sure enough, one of each that overlap."""
        if not faces.isfinite().all():
            return None
        faces = faces[faces[:, 0] >= self.threshold].cpu()
        faces = faces[faces[:, 0].argsort(descending=True, stable=True)[:MAX_CANDIDATES]]
        height, width = shape[:2]
        boxes = faces[:, 1:5].clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        inside = (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)  # others lie beside the picture
        faces, boxes = faces[inside], boxes[inside]
        kept = self.nms(boxes, faces[:, 0], self.nms_iou)
        eyes = faces[kept, 5:].view(-1, 2, 2)
        return Faces(boxes[kept].numpy(), faces[kept, 0].numpy(), eyes.numpy())

    def _pad(self, images_NHWC: Images) -> torch.Tensor:
        """Pictures as (N, 3, H, W), black at the right and below up to multiples of STEP_PX."""
        if not isinstance(images_NHWC, torch.Tensor):
            images_NHWC = upload(images_NHWC, self.device)
        num, height, width = images_NHWC.shape[:3]
        sides = [-(-side // STEP_PX) * STEP_PX for side in (height, width)]
        padded = images_NHWC.new_zeros((num, *sides, 3))
        padded[:, :height, :width] = images_NHWC
        return padded.permute(0, 3, 1, 2).to(self.dtype)
