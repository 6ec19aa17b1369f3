from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from maskbatch.errors import UsageError
from maskbatch.model import detector as module
from maskbatch.model import face_networks
from maskbatch.model.checkpoint import DETECTORS, open_detector, save_checkpoint
from maskbatch.model.detector import Detector, Faces
from maskbatch.model.face_networks import FaceNetwork
from tests.maskbatch.samples import draw, make_detector_card

Picture = NDArray[np.uint8]
PUBLISHED = Path(__file__).parent / "published"
LABELS = ("with_mask", "without_mask", "incorrect_mask")


def draw_face(k: int) -> Picture:
    return np.asarray(draw(k, (160, 120), LABELS[k % 3]))


@pytest.fixture(scope="module", params=DETECTORS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def detector(name: str) -> Detector:
    return Detector(open_detector(name), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def change(name: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Detector]:
    """The packaged detector, with another card or other weights."""

    def changed(weights: dict[str, torch.Tensor] | None = None, **card: Any) -> Detector:
        opened = open_detector(name)
        path = tmp_path_factory.mktemp("changed") / "d.safetensors"
        state = opened.load_state()
        save_checkpoint(path, make_detector_card(**{"architecture": name} | card), state | (weights or {}))
        return Detector(open_detector(str(path)), dtype="float32", device="cpu")

    return changed


def compute_maps(network: FaceNetwork, picture: Picture) -> NDArray[np.float32]:
    """All maps (C, P) of a picture whose sides are multiples of 32."""
    with torch.inference_mode():
        maps = network.compute_maps(torch.tensor(picture.transpose(2, 0, 1)[None]).float())
    return torch.cat([part[0].flatten(1) for part in maps], 1).numpy()


def assert_equal(one: Faces, other: Faces, **tolerance: float) -> None:
    for field in ("boxes_K4", "confidence_K", "eyes_K22"):
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), **{"rtol": 0, **tolerance})


def test_a_packaged_detector_gives_what_the_published_file_gives(name: str, detector: Detector) -> None:
    """The example was made by tests/training/onnx_maps.py; half-precision weights cost the last digits."""
    example = np.load(PUBLISHED / f"{name}.npz")
    assert len(detector.detect(example["picture"])) == 1
    maps = compute_maps(detector.network, example["picture"])
    np.testing.assert_allclose(maps, example["maps"], atol=0.006, rtol=0.001)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolution_and_relu_in_one_step_change_no_bit(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hasattr(torch.ops.mkldnn, "_convolution_pointwise"), "torch has lost it: detectors are 13 % slower"
    if not face_networks.can_fuse():
        pytest.skip("needs a CPU with AVX512")
    torch.manual_seed(5)
    for channels, stride, groups in ((3, 2, 1), (24, 1, 1), (24, 2, 24)):
        step = face_networks.ReluConv(channels, 24, 3, stride, 1, groups=groups)
        step = step.to(dtype).to(memory_format=torch.channels_last)
        x = torch.randn(1, channels, 32, 64, dtype=dtype).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            fused = step(x)
            monkeypatch.setattr(face_networks, "can_fuse", lambda: False)
            plain = step(x)
            monkeypatch.undo()
        assert torch.equal(fused, plain)
        assert 0.2 < (plain > 0).float().mean() < 0.8


def test_drawn_faces_are_found_with_their_eyes(detector: Detector) -> None:
    found = [detector.detect(draw_face(k)) for k in range(9)]
    assert sum(map(len, found)) >= 6
    for faces in found:
        assert faces.boxes_K4.dtype == faces.confidence_K.dtype == faces.eyes_K22.dtype == np.float32
        assert list(faces.confidence_K) == sorted(faces.confidence_K, reverse=True)
        for (x0, y0, x1, y1), (left, right) in zip(faces.boxes_K4, faces.eyes_K22, strict=True):
            assert x0 < left[0] < right[0] < x1
            assert y0 < left[1] < (y0 + y1) / 2 + 3 and y0 < right[1] < (y0 + y1) / 2 + 3


def test_a_picture_has_the_same_faces_whatever_came_before(name: str) -> None:
    for dtype in ("float32", "bfloat16"):
        fresh = Detector(open_detector(name), dtype=dtype, device="cpu")
        alone = fresh.detect(draw_face(1))
        assert len(alone) == 1
        for k in (2, 4):
            fresh.detect(draw_face(k)[: 50 + 20 * k])
        assert_equal(alone, fresh.detect(draw_face(1)), atol=0)


def test_padding_is_as_black_as_a_black_border(detector: Detector) -> None:
    picture = draw_face(1)[:113, :131]
    padded = np.zeros((128, 160, 3), np.uint8)
    padded[:113, :131] = picture
    found = detector.detect(picture)
    assert len(found) == 1
    assert_equal(found, detector.detect(padded), atol=0)


def test_bfloat16_gives_the_same_boxes_within_a_pixel(name: str, detector: Detector) -> None:
    half = Detector(open_detector(name), dtype="bfloat16", device="cpu")
    for k in (1, 2, 5):
        found = half.detect(draw_face(k))
        assert len(found) == 1
        assert_equal(found, detector.detect(draw_face(k)), atol=1)


@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (1, 500), (60, 4000), (4000, 60), (33, 97)])
def test_a_picture_of_any_size_is_taken(detector: Detector, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8)
    for picture in (noise, np.zeros_like(noise)):
        faces = detector.detect(picture)
        assert faces.boxes_K4.shape == (len(faces), 4) and faces.eyes_K22.shape == (len(faces), 2, 2)


def test_boxes_of_faces_cut_by_the_border_end_there(detector: Detector) -> None:
    cut = np.ascontiguousarray(draw_face(1)[:, :100])
    (box,) = detector.detect(cut).boxes_K4
    assert 0 <= box[0] < box[2] == 100
    assert 0 <= box[1] < box[3] <= 120


def test_two_boxes_of_one_face_become_the_surer_one(change: Callable[..., Detector]) -> None:
    every = change(nms_iou=1.0).detect(draw_face(1))
    one = change(nms_iou=0.3).detect(draw_face(1))
    assert len(every) > 1
    assert len(one) == 1
    assert one.confidence_K[0] == every.confidence_K[0]


def test_a_threshold_leaves_less_sure_faces_out(change: Callable[..., Detector]) -> None:
    every = change(threshold=0.05, nms_iou=1.0).detect(draw_face(1))
    some = change(threshold=0.6, nms_iou=1.0).detect(draw_face(1))
    assert 0 < len(some) == (every.confidence_K >= 0.6).sum() < len(every)


def test_noise_in_which_every_point_is_a_face_takes_bounded_work(change: Callable[..., Detector]) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (640, 960, 3), np.uint8)
    faces = change(threshold=0.0, nms_iou=1.0).detect(noise)
    assert module.MAX_CANDIDATES * 0.9 <= len(faces) <= module.MAX_CANDIDATES
    assert (faces.boxes_K4[:, 2:] - faces.boxes_K4[:, :2] >= 1).all()
    assert faces.boxes_K4.min() >= 0 and faces.boxes_K4.max(axis=0).tolist() <= [960, 640, 960, 640]


def test_numbers_that_are_not_finite_are_told(change: Callable[..., Detector]) -> None:
    name, bias = next(
        (n, w) for n, w in change().network.named_parameters() if n.startswith("heads") and "bias" in n
    )
    broken = change({name: torch.full_like(bias, 1e4)})
    with pytest.raises(ValueError, match="not a finite number"):
        broken.detect(draw_face(1))


def test_weights_of_another_network_are_refused(name: str, tmp_path: Path) -> None:
    state = open_detector(name).load_state()
    state.pop("stem.weight")
    save_checkpoint(tmp_path / "d", make_detector_card(architecture=name), state)
    with pytest.raises(UsageError, match=f"detector .+/d: its weights do not fit {name}: .*stem.weight"):
        Detector(open_detector(str(tmp_path / "d")), dtype="float32", device="cpu")


@pytest.mark.parametrize("changes", [{"architecture": "mobilenet_v2"}, {"options": {"width": 2}}])
def test_an_architecture_that_finds_no_faces_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_checkpoint(tmp_path / "d", make_detector_card(**changes), open_detector().load_state())
    with pytest.raises(UsageError, match=r"/d: architecture .+ expected"):
        Detector(open_detector(str(tmp_path / "d")), dtype="float32", device="cpu")
