from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import DETECTORS, open_detector
from maskbatch.stores.files import write_json
from tests.maskbatch.model.test_detector import compute_maps
from tests.training.onnx_maps import FILES
from tests.training.onnx_maps import compute_maps as compute_published_maps
from training.convert_detector import fill_network, main, read_layers


@pytest.fixture(scope="module")
def weights(shared: Path) -> Path:
    pytest.importorskip("onnxruntime", reason="needs: pip install onnx onnxruntime")
    return shared / "weights"


@pytest.mark.parametrize("architecture", DETECTORS)
def test_the_network_agrees_with_the_published_file_on_photographs(
    shared: Path, weights: Path, architecture: str
) -> None:
    network = fill_network(architecture, read_layers(weights / FILES[architecture]))
    photographs = sorted((shared / "data/scenes/val").glob("*.jpg"))[:4]
    assert len(photographs) == 4
    for path in photographs:
        picture = np.asarray(Image.open(path).convert("RGB"))
        height, width = (side // 32 * 32 for side in picture.shape[:2])
        ours = compute_maps(network, picture[:height, :width])
        published = compute_published_maps(architecture, picture[:height, :width])
        assert ours.shape == published.shape
        np.testing.assert_allclose(ours, published, atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", DETECTORS)
def test_the_packaged_detector_is_the_published_one(weights: Path, tmp_path: Path, architecture: str) -> None:
    main(architecture, weights / FILES[architecture], tmp_path / "d.safetensors")
    made, packaged = open_detector(str(tmp_path / "d.safetensors")).load_state(), open_detector(architecture)
    assert made.keys() == packaged.load_state().keys()
    assert all(torch.equal(weight, made[name]) for name, weight in packaged.load_state().items())


def test_weights_of_another_detector_are_refused(weights: Path) -> None:
    with pytest.raises(UsageError, match="not the weights of centerface"):
        fill_network("centerface", read_layers(weights / FILES["yunet_n"]))
    with pytest.raises(UsageError, match="not the weights of yunet_n"):
        fill_network("yunet_n", read_layers(weights / FILES["centerface"]))


def test_a_file_that_is_no_onnx_is_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\xff" * 64)
    with pytest.raises(UsageError, match=r"x\.onnx: not a readable .onnx file"):
        read_layers(tmp_path / "x.onnx")


def test_a_detector_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'retina': one of centerface, yunet_n expected"):
        main("retina", tmp_path / "x.onnx", tmp_path / "d")


def test_the_card_gets_the_recall_of_an_evaluation(weights: Path, tmp_path: Path) -> None:
    evaluation, out = tmp_path / "evaluation.json", tmp_path / "d.safetensors"
    recall = {"with_mask": [[1, 2]] * 9}
    write_json(evaluation, {"recall": recall, "detect_px": 960, "split": "val", "num_boxed": 18, "found": {}})
    main("yunet_n", weights / FILES["yunet_n"], out, evaluation)
    card = open_detector(str(out)).card
    assert card.recall == recall
    assert card.recipe["split"] == "val" and card.recipe["num_boxed"] == 18
    assert "MIT" in open_detector("centerface").card.recipe["origin"]
    for values in ({"recall": {"with_mask": [[3, 2]] * 9}}, {"found": {}}, {"recall": []}):
        write_json(evaluation, values)
        with pytest.raises(UsageError, match=r"evaluation\.json: .*give what training.evaluate_scenes wrote"):
            main("yunet_n", weights / FILES["yunet_n"], out, evaluation)
    evaluation.write_text("{")
    with pytest.raises(UsageError, match=r"not a readable evaluation\.json"):
        main("yunet_n", weights / FILES["yunet_n"], out, evaluation)
