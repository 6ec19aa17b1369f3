"""Import a Hugging Face image classifier: its weights, config, labels and preprocessing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from maskbatch.drawing.gate import LABELS
from maskbatch.errors import UsageError
from maskbatch.model.card import CLASS_NAME, Card, Preset
from maskbatch.model.checkpoint import save_checkpoint

Triple = tuple[float, float, float]
UNUSED = ("architectures", "id2label", "label2id", "dtype", "torch_dtype", "transformers_version")
"""Keys of the config that do not change the network."""
INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""By their numbers in Pillow, which an image processor holds."""


def import_checkpoint(source: str, names: Mapping[str, str], compliant: Sequence[str], path: Path) -> Card:
    """Import a Hugging Face image classifier, from a folder or hub name. Raises UsageError.

    `names` maps its labels to ours; the card keeps its own. Refuses processors that scoring cannot follow.
    """
    try:
        from transformers import AutoImageProcessor, AutoModelForImageClassification
    except ImportError as error:
        raise UsageError("importing from Hugging Face needs: pip install 'maskbatch[hf]'") from error
    try:
        auto: Any = AutoModelForImageClassification
        model = auto.from_pretrained(source, dtype=torch.float32, use_safetensors=True).eval()
        processor = AutoImageProcessor.from_pretrained(source).to_dict()
        image_processor = json.loads(json.dumps(processor, default=str))
        labels = [str(model.config.id2label[k]) for k in range(model.config.num_labels)]
    except Exception as error:  # the library raises anything for an odd config
        first = next(iter(str(error).splitlines()), type(error).__name__)
        message = f"{source}: no image classifier there ({first}); give a local folder or a hub name"
        raise UsageError(message) from error
    classes = _name_classes(source, labels, names)
    config = model.config.to_diff_dict() | {"model_type": model.config.model_type}
    try:
        preset, mean, std = _read_preprocessing(source, processor)
        card = Card(
            architecture="transformers",
            options={"config": {key: it for key, it in config.items() if key not in UNUSED}},
            classes=classes,
            compliant=tuple(compliant),
            not_assessed=("no_face",) if "no_face" in classes else (),
            **asdict(preset),
            mean=mean,
            std=std,
            confusion=((0,) * len(classes),) * len(classes),
            recipe={"source": source, "labels": labels, "image_processor": image_processor},
        )
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        message = f"{source}: cannot become a checkpoint: {error}; check --class and --compliant"
        raise UsageError(message) from error
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_checkpoint(path, card, state, halved=False)
    return card


def _name_classes(source: str, labels: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """Name the class of each label. Raises UsageError for a label or a name that maskbatch cannot use."""
    if unknown := [label for label in names if label not in labels]:
        raise UsageError(f"--class {unknown[0]}=...: its labels are {', '.join(labels)}")
    classes = tuple(names.get(label, label) for label in labels)
    for label, name in zip(labels, classes, strict=True):
        if (label not in names and name not in LABELS) or not CLASS_NAME.fullmatch(name):
            raise UsageError(
                f"label {label!r} of {source} is not one of {', '.join(LABELS)}; "
                f"name it with --class '{label}=with_mask' or another name like [a-z][a-z0-9_]*"
            )
    return classes


def _read_preprocessing(source: str, processor: Mapping[str, Any]) -> tuple[Preset, Triple, Triple]:
    """Express an image processor as a preset, mean and std. Raises UsageError for what scoring cannot do."""
    if not processor.get("do_resize", True):
        raise UsageError(f"{source}: its image processor does not resize; scoring needs one input size")
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    share, resize = 1.0, "squash"
    if "height" in size:
        shape = (int(size["height"]), int(size["width"]))
        if processor.get("do_center_crop") and crop and (crop["height"], crop["width"]) != shape:
            raise UsageError(f"{source}: it squashes to {shape} and crops to {crop}; scoring can do only one")
    elif "shortest_edge" in size:
        edge = int(size["shortest_edge"])
        shape = (edge, edge)
        if processor.get("crop_pct") is not None:
            if edge < 384:  # ConvNeXT squashes larger inputs
                resize, share = "crop", float(processor["crop_pct"])
        elif processor.get("do_center_crop"):
            shape = (int(crop["height"]), int(crop["width"]))
            resize, share = "crop", shape[0] / edge
        else:
            problem = "it keeps every aspect ratio without a crop"
            raise UsageError(f"{source}: {problem}; scoring needs one input size")
    else:
        raise UsageError(f"{source}: unknown image size {dict(size)}")
    mean, std = (0.0,) * 3, (1.0,) * 3
    if processor.get("do_normalize", True):
        mean, std = (tuple(map(float, processor[key])) for key in ("image_mean", "image_std"))
    factor = float(processor.get("rescale_factor") or 1 / 255)
    if not processor.get("do_rescale", True) or abs(factor - 1 / 255) > 1e-6 or len(mean) != 3:
        raise UsageError(f"{source}: RGB pixels scaled by 1/255 expected")
    resample = INTERPOLATIONS.get(int(processor.get("resample", 2) or 0), "bilinear")
    return Preset(shape, resize, share, resample), mean, std  # type: ignore[return-value]
