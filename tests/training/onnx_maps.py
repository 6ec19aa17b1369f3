"""What the published ONNX file of a detector gives, and the small example of it that tests compare with.

python -m tests.training.onnx_maps centerface    (writes tests/maskbatch/model/published/centerface.npz)
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.maskbatch.samples import draw

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"
FILES = {"centerface": "centerface.onnx", "yunet_n": "yunet_n_dynamic.onnx"}
EXAMPLES = Path(__file__).parents[1] / "maskbatch" / "model" / "published"


def compute_maps(architecture: str, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """All outputs of the file side by side (C, P), for an RGB picture whose sides are multiples of 32."""
    import onnx
    import onnxruntime

    graph = onnx.load(WEIGHTS / FILES[architecture])
    for value in (graph.graph.input[0], *graph.graph.output):  # one of them has fixed sizes
        for number, size in enumerate(value.type.tensor_type.shape.dim):
            size.dim_param = f"{value.name}_{number}"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
    images = picture.transpose(2, 0, 1)[None].astype(np.float32)
    if architecture == "yunet_n":
        images = images[:, ::-1]  # BGR
    names = [output.name for output in graph.graph.output]
    outputs = dict(zip(names, session.run(None, {graph.graph.input[0].name: images}), strict=True))
    if architecture == "yunet_n":
        parts = ("cls", "obj", "bbox", "kps")
        grids = [np.concatenate([outputs[f"{part}_{k}"][0] for part in parts], 1) for k in (8, 16, 32)]
        return np.concatenate(grids).T
    return np.concatenate([output[0].reshape(output.shape[1], -1) for output in outputs.values()])


if __name__ == "__main__":
    drawn = np.asarray(draw(1, (64, 64), "without_mask"))
    maps = compute_maps(sys.argv[1], drawn).astype(np.float16)
    np.savez_compressed(EXAMPLES / f"{sys.argv[1]}.npz", picture=drawn, maps=maps)
