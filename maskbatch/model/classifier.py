"""A model on its device, which turns uint8 images into class probabilities: the one hop with a state."""

import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from maskbatch.errors import UsageError
from maskbatch.model.architectures import build
from maskbatch.model.card import BATCH_SIZES
from maskbatch.model.checkpoint import Checkpoint, CheckpointFile

Images = NDArray[np.uint8] | torch.Tensor
"""On the host, or resident on the classifier's device."""


def resolve_dtype(dtype: str, device: str) -> str:
    """`auto` becomes bfloat16 where the device has it in hardware, else float32."""
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if fast else "float32"


class Classifier:
    """A checkpoint's model, ready to score."""

    def __init__(
        self, checkpoint: Checkpoint, *, dtype: str, batch_size: int | None = None, device: str | None = None
    ) -> None:
        """Load the weights strictly, fold batch norms into convolutions, move to the device.

        `device` None takes CUDA where there is one. The model sees batches of `batch_size` images only: the
        last digits of a picture's probabilities depend on it. None: that of the device, see BATCH_SIZES.
        """
        card = checkpoint.card
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype: torch.dtype = getattr(torch, resolve_dtype(dtype, self.device))
        self.batch_size = batch_size or BATCH_SIZES[torch.device(self.device).type]
        self.input_size = card.input_size
        self.num_classes = len(card.classes)
        self.temperature = card.temperature
        if self.device == "cpu":
            torch.set_num_threads(1)  # one worker a core beats one worker with many threads
        model = build(card.architecture, self.num_classes, card.options)
        load_weights(model, checkpoint)
        model.eval()
        if card.architecture != "transformers":  # torch.fx cannot trace those, and does not always say so
            model = _fold_batch_norms(model)
        model = model.to(self.device, self.dtype)
        self.model = model.to(memory_format=torch.channels_last)
        self.mean, self.std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1) * 255
            for values in (card.mean, card.std)
        )
        if self.device != "cpu":
            self.logits(
                np.zeros((1, *card.input_size, 3), np.uint8)
            )  # the first batch loads kernels: a second

    @property
    def dtype_name(self) -> str:
        """`bfloat16` or `float32`."""
        return str(self.dtype).removeprefix("torch.")

    def logits(self, images_NHWC: Images) -> torch.Tensor:
        """Logits (N, K) float32, on the CPU, of RGB images (N, H, W, 3) uint8, N <= batch_size."""
        return self._logits(images_NHWC).cpu()

    @torch.inference_mode()
    def _logits(self, images_NHWC: Images) -> torch.Tensor:
        """As `logits`, on the device."""
        num_images = len(images_NHWC)
        images = self._place(images_NHWC).permute(0, 3, 1, 2)
        inputs = ((images.float() - self.mean) / self.std).to(self.dtype, memory_format=torch.channels_last)
        logits: torch.Tensor = self.model(inputs)
        return logits[:num_images].float()

    def _place(self, images_NHWC: Images) -> torch.Tensor:
        """A whole batch on the device, filled up with the first of its images."""
        num_missing = self.batch_size - len(images_NHWC)
        if isinstance(images_NHWC, torch.Tensor):
            filling = images_NHWC[:1].expand(num_missing, -1, -1, -1)
            return torch.cat([images_NHWC, filling]) if num_missing else images_NHWC
        if num_missing:
            images_NHWC = np.resize(images_NHWC, (self.batch_size, *images_NHWC.shape[1:]))
        return upload(images_NHWC, self.device)

    def probs(self, images_NHWC: Images) -> NDArray[np.float32]:
        """Temperature-scaled probabilities (N, K) float32 of images (N, H, W, 3) uint8, any N.

        Images on a GPU stay there; nothing waits for it before the last batch is under way.
        """
        parts = [
            self._logits(images_NHWC[i : i + self.batch_size])
            for i in range(0, len(images_NHWC), self.batch_size)
        ]
        if not parts:
            return np.zeros((0, self.num_classes), np.float32)
        probs_NK: NDArray[np.float32] = torch.softmax(
            torch.cat(parts).cpu() / self.temperature, dim=1
        ).numpy()
        return probs_NK

    def probs_of_each(self, images: Iterable[Images]) -> NDArray[np.float32]:
        """As `probs`, of images (H, W, 3) that come one by one; no more than a batch of them waits."""
        images, parts = iter(images), [np.zeros((0, self.num_classes), np.float32)]
        while batch := list(islice(images, self.batch_size)):
            parts.append(self.probs(stack(batch)))
        return np.concatenate(parts)


def stack(images: Sequence[Images]) -> Images:
    """Images of one shape as one array, where they are: all on the host, or all on the device."""
    resident = [image for image in images if isinstance(image, torch.Tensor)]
    return torch.stack(resident) if resident else np.stack(images)


def upload(images: NDArray[np.uint8], device: str) -> torch.Tensor:
    """On the device; to CUDA from pinned memory, so that the host goes on meanwhile."""
    if device == "cpu":
        return torch.from_numpy(np.require(images, requirements="W"))
    pinned = torch.empty(images.shape, dtype=torch.uint8, pin_memory=True)
    pinned.numpy()[...] = images
    return pinned.to(device, non_blocking=True)


def load_weights(model: nn.Module, opened: CheckpointFile[Any]) -> None:
    """Give `model` the weights of `opened`, all of them. Raises UsageError unless they are its own."""
    misfit, state = f"{opened.noun} {opened.path}: its weights do not fit", opened.load_state()
    architecture = opened.card.architecture
    for name, own in model.state_dict().items():
        if own.is_floating_point() and name in state and not state[name].is_floating_point():
            raise UsageError(f"{misfit} {architecture}: {name} is {state[name].dtype}, {own.dtype} expected")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        why = " ".join(str(error).splitlines()[:2][-1:]).strip()[:300]
        raise UsageError(f"{misfit} {architecture}: {why}") from error


def _fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution before it: 30 % faster on a CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.fx.experimental.optimization import fuse
        from torch.fx.proxy import TraceError

        try:
            fused: Any = fuse(model)
        except (TraceError, TypeError, NotImplementedError):  # torch.fx cannot trace it
            return model
    return fused if isinstance(fused, nn.Module) else model
