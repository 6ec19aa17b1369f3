"""A Hugging Face image classifier as a checkpoint: its weights, config, labels and preprocessing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from maskbatch.drawing import LABELS
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import CLASS_NAME, Card, Preset, save_checkpoint

Triple = tuple[float, float, float]
NOT_OF_THE_NETWORK = (
    "architectures", "id2label", "label2id", "dtype", "torch_dtype", "transformers_version",
)  # fmt: skip
INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""By Pillow's number, which is what an image processor holds."""


def import_checkpoint(source: str, names: Mapping[str, str], compliant: Sequence[str], path: Path) -> Card:
    """A Hugging Face image classifier, from a folder or hub name, as a checkpoint. Raises UsageError.

    `names` maps its labels to ours; its own are kept in the card. What its image processor does that
    scoring cannot is refused.
    """
    try:
        from transformers import AutoImageProcessor, AutoModelForImageClassification
    except ImportError as error:
        raise UsageError("importing from Hugging Face needs: pip install 'maskbatch[hf]'") from error
    try:
        auto: Any = AutoModelForImageClassification
        model = auto.from_pretrained(source, dtype=torch.float32, use_safetensors=True).eval()
        processor = AutoImageProcessor.from_pretrained(source).to_dict()
    except (OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0]
        message = (
            f"{source}: no image classifier can be had there ({first}); give a local folder or a hub name"
        )
        raise UsageError(message) from error
    originals = [model.config.id2label[k] for k in range(model.config.num_labels)]
    classes = tuple(names.get(label, label) for label in originals)
    if unknown := [label for label in names if label not in originals]:
        raise UsageError(f"--class {unknown[0]}=...: its labels are {', '.join(originals)}")
    for label, name in zip(originals, classes, strict=True):
        if (label not in names and name not in LABELS) or not CLASS_NAME.fullmatch(name):
            message = (
                f"label {label!r} of {source} is not one of {', '.join(LABELS)}; "
                f"say which it is with --class '{label}=with_mask' or a name like [a-z][a-z0-9_]*"
            )
            raise UsageError(message)
    try:
        card = _card(model.config, classes, compliant, *_preprocessing(source, processor))
    except ValueError as error:
        raise UsageError(
            f"{source}: cannot become a checkpoint: {error}; check --class and --compliant"
        ) from error
    card.recipe.update(
        source=source, labels=originals, image_processor=json.loads(json.dumps(processor, default=str))
    )
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_checkpoint(path, card, state, halved=False)
    return card


def _card(
    settings: Any,
    classes: tuple[str, ...],
    compliant: Sequence[str],
    preset: Preset,
    mean: Triple,
    std: Triple,
) -> Card:
    config = {
        key: value for key, value in settings.to_diff_dict().items()
        if key not in NOT_OF_THE_NETWORK
    } | {"model_type": settings.model_type}  # fmt: skip
    return Card(
        architecture="transformers",
        options={"config": config},
        classes=classes,
        compliant=tuple(compliant),
        not_assessed=("no_face",) if "no_face" in classes else (),
        input_size=preset.input_size,
        resize=preset.resize,
        crop_share=preset.crop_share,
        interpolation=preset.interpolation,
        mean=mean,
        std=std,
        confusion=((0,) * len(classes),) * len(classes),
    )


def _preprocessing(source: str, processor: Mapping[str, Any]) -> tuple[Preset, Triple, Triple]:
    """What an image processor does, in our terms. Raises UsageError for what scoring cannot do."""
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    resample = INTERPOLATIONS.get(int(processor.get("resample", 2) or 0), "bilinear")
    share, resize = 1.0, "squash"
    if not processor.get("do_resize", True):
        raise UsageError(f"{source}: its image processor resizes nothing; scoring needs one input size")
    if "height" in size:
        shape = (int(size["height"]), int(size["width"]))
        if processor.get("do_center_crop") and crop and (crop["height"], crop["width"]) != shape:
            raise UsageError(
                f"{source}: it squashes to {shape} and then crops to {crop}; only one can be kept"
            )
    elif "shortest_edge" in size:
        edge = int(size["shortest_edge"])
        shape = (edge, edge)
        if "crop_pct" in processor and processor["crop_pct"] is not None:
            if edge < 384:  # ConvNeXT's rule: larger inputs are squashed
                resize, share = "crop", float(processor["crop_pct"])
        elif processor.get("do_center_crop"):
            shape = (int(crop["height"]), int(crop["width"]))
            resize, share = "crop", shape[0] / edge
        else:
            raise UsageError(
                f"{source}: it keeps every aspect ratio without a crop; scoring needs one input size"
            )
    else:
        raise UsageError(f"{source}: an image size that is not understood: {dict(size)}")
    normalised = processor.get("do_normalize", True)
    mean, std = (
        tuple(map(float, processor[key])) if normalised else plain
        for key, plain in (("image_mean", (0.0,) * 3), ("image_std", (1.0,) * 3))
    )
    if (
        not processor.get("do_rescale", True)
        or abs(float(processor.get("rescale_factor") or 1 / 255) - 1 / 255) > 1e-6
        or len(mean) != 3
    ):
        raise UsageError(f"{source}: pixels of RGB scaled by 1/255 are expected")
    return Preset(shape, resize, share, resample), mean, std  # type: ignore[return-value]
