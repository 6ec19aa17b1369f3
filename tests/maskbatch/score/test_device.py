"""One contract, two decoders. Here libjpeg stands in nvJPEG's place; all else is what runs on a GPU."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from maskbatch import schema
from maskbatch.clock import Clock
from maskbatch.config import ScoreConfig
from maskbatch.decode.images import Picture, Shape, Whole, decode_image
from maskbatch.decode.source import Encoded
from maskbatch.decode.triage import Plain, read_plain, sort_images
from maskbatch.drawing.gate import LABELS
from maskbatch.errors import ImageError, UsageError
from maskbatch.model.checkpoint import open_checkpoint, open_detector
from maskbatch.schema import MEASURES
from maskbatch.score import device
from maskbatch.score.device import DeviceDecoder
from maskbatch.score.networks import Networks, decode_pixels, picture_shape
from maskbatch.score.scene import Frame
from tests.benchmarks.damage import DAMAGE, make_files
from tests.maskbatch.decode.test_triage import ODD, PLAIN, turned
from tests.maskbatch.samples import NOW, draw, encode

CLOCK = Clock.parse(["Europe/Paris"], NOW)
CONFIGS = {
    view: ScoreConfig(view=view, dtype="float32", batch_size=32, decoder="gpu", max_pixels=10**7)
    for view in ("face", "scene")
}
Rows = list[dict[str, Any]]
OF_PIXELS = {*MEASURES, "dhash", "confidence", "needs_review", "label"}


@pytest.fixture(scope="module", params=CONFIGS)
def networks(request: pytest.FixtureRequest) -> Networks:
    return make_networks(request.param)


@pytest.fixture(scope="module")
def faces() -> Networks:
    return make_networks("face")


def make_networks(view: str, dtype: str | None = None) -> Networks:
    detector = open_detector() if view == "scene" else None
    return Networks(open_checkpoint(), detector, CONFIGS[view], device="cpu", dtype=dtype)


def score(networks: Networks, files: Sequence[bytes], **settings: Any) -> tuple[Rows, Rows]:
    """The rows by the CPU's decoder, and by the device's."""
    config = CONFIGS["scene" if networks.finder else "face"]
    encoded = [Encoded(data, num_bytes=len(data)) for data in files] + [Encoded(None, "missing", "gone")]
    rows = {"id": range(len(encoded)), "uri": [f"file:///{k}.jpg" for k in range(len(encoded))]}
    rows |= {"encoding": ["raw"] * len(encoded)}
    columns = {f.name: rows.get(f.name, [None] * len(encoded)) for f in schema.PLAN}
    plan = pa.Table.from_pydict(columns, schema.PLAN)
    decoded = decode_pixels(encoded, len(encoded), networks.card.preset, config)
    images = sort_images(encoded, picture_shape(networks.card.preset, config), config.max_pixels)
    ours = networks.score(plan, images, CLOCK, **settings)
    theirs = networks.score(plan, decoded, CLOCK)
    assert ours.schema == theirs.schema
    return theirs.to_pylist(), ours.to_pylist()


def scenes(*sizes: tuple[int, int]) -> Iterator[bytes]:
    for k, size in enumerate(sizes):
        yield encode(draw(k, size, LABELS[k % 4]), quality=90)


MIXED = [
    *PLAIN.values(), *ODD.values(), *map(turned, range(1, 9)), encode(draw(1))[:900],
    *scenes((640, 480), (480, 640), (1920, 1080), (2900, 500), (640, 480), (33, 700)),
]  # fmt: skip


def test_rows_are_those_of_the_cpus_decoder_but_for_what_follows_from_pixels(networks: Networks) -> None:
    theirs, ours = score(networks, MIXED)
    assert len(ours) == len(theirs)
    for row, expected in zip(ours, theirs, strict=True):
        for name in expected:
            if name in ("box", "face_confidence") and expected[name] is not None:
                assert row[name] == pytest.approx(expected[name], abs=4)
            elif name not in OF_PIXELS and not name.startswith("prob_"):
                assert row[name] == expected[name], name
            assert (row[name] is None) == (expected[name] is None)
    wanted = [(row, expected) for row, expected in zip(ours, theirs, strict=True) if expected["label"]]
    assert len(wanted) > 5
    for row, expected in wanted:
        assert row["confidence"] == pytest.approx(expected["confidence"], abs=0.1)
        assert row["brightness"] == pytest.approx(expected["brightness"], abs=0.01)
    described = [(row, expected) for row, expected in zip(ours, theirs, strict=True) if expected["dhash"]]
    bits = [(int.from_bytes(a["dhash"]) ^ int.from_bytes(b["dhash"])).bit_count() for a, b in described]
    assert np.mean(bits) < 2


def refuse(marked: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the device refuse batches that hold an image of one of these sizes; what size each try had."""
    decode, tries = device.decode_jpegs, list[int]()

    def decode_some(encoded: list[torch.Tensor], where: str) -> list[torch.Tensor]:
        tries.append(len(encoded))
        if any(len(image) in marked for image in encoded):
            raise RuntimeError("nvJPEG error 8")
        return decode(encoded, where)

    monkeypatch.setattr(device, "decode_jpegs", decode_some)
    return tries


def test_a_batch_that_fails_is_halved_until_the_culprit_is_alone(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = list(scenes(*[(320, 240)] * 13, (640, 480), (320, 240)))
    theirs, whole = score(networks, files)
    tries = refuse([len(files[5])], monkeypatch)
    _, halved = score(networks, files)
    assert tries == [15, 7, 3, 4, 2, 2, 1, 1, 8]
    places = [{row["id"] for row in rows} for rows in (whole, halved)]
    assert places[0] == places[1]
    for row, expected in zip(halved, whole, strict=True):
        assert row == expected or row["id"] == 5
    of_fifth = [[row for row in rows if row["id"] == 5] for rows in (halved, theirs)]
    assert [row["label"] for row in of_fifth[0]] == [row["label"] for row in of_fifth[1]]
    if not networks.finder:
        assert of_fifth[0][0]["dhash"] == of_fifth[1][0]["dhash"]  # decoded as the CPU decodes it


def test_what_the_device_refuses_is_judged_by_the_cpus_decoder(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = list(scenes((320, 240), (321, 240)))
    spoilt = bytearray(good[1])
    del spoilt[-200:-150]
    with pytest.raises(ImageError):
        decode_image(bytes(spoilt), networks.card.preset, 10**7)
    plain = read_plain(bytes(spoilt), 10**7)
    assert plain  # its damage lies inside of the scan
    refuse([len(spoilt)], monkeypatch)
    theirs, ours = score(networks, [good[0], bytes(spoilt)])
    names = ("status", "error", "width", "height", "sha256", "num_bytes", "brightness")
    (row,), (expected,) = ([row for row in rows if row["id"] == 1] for rows in (ours, theirs))
    assert row["status"] == "corrupt"
    assert [row[name] for name in names] == [expected[name] for name in names]


def test_a_device_that_gives_another_size_than_the_header_is_not_believed(
    faces: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, plain = score(faces, list(scenes((640, 480))))
    monkeypatch.setattr(
        device,
        "decode_jpegs",
        lambda encoded, _: [torch.zeros((3, 8, 8), dtype=torch.uint8) for _ in encoded],
    )
    _, ours = score(faces, list(scenes((640, 480))))
    assert ours == theirs != plain


def test_a_shard_for_which_the_device_is_not_safe_is_decoded_by_the_cpu(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[int]()

    def decode(number: int, data: bytes, shape: Shape, max_pixels: int) -> Picture:
        seen.append(number)
        return decode_image(data, shape, max_pixels)

    tries = refuse([], monkeypatch)
    theirs, ours = score(networks, MIXED, is_device_safe=False, decode=decode)
    assert not tries
    assert seen == [k for k, data in enumerate(MIXED) if read_plain(data, 10**7)]
    if not networks.finder:
        for row in (*ours, *theirs):  # whose softmax is of other numbers of rows
            for name in list(row):
                if name.startswith("prob_") or name == "confidence":
                    row[name] = pytest.approx(row[name], abs=1e-5)
        assert ours == theirs


def test_a_device_on_which_nothing_works_any_more_is_no_reason_to_decode_all_on_the_cpu(
    faces: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = list(scenes((320, 240)))
    refuse([len(files[0])], monkeypatch)
    monkeypatch.setattr(device, "is_lost", lambda _: True)
    with pytest.raises(RuntimeError, match="nvJPEG error 8"):
        score(faces, files)
    assert faces.is_device_lost()


def test_pictures_are_decoded_in_batches_of_bounded_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MAX_BATCH", 4)
    monkeypatch.setattr(device, "MAX_BATCH_BYTES", 3 * 320 * 240 * 3)
    tries = refuse([], monkeypatch)
    files = list(scenes(*[(320, 240)] * 5, (640, 480), *[(160, 120)] * 6))
    images = sort_images(map(Encoded, files), Whole(100), 10**7)
    decoder, waiting = DeviceDecoder(Whole(100), 10**7, "cpu"), list[int]()
    for _, frame in decoder.decode_frames(images, lambda _, *image: decode_image(*image)):
        assert frame
        waiting.append(len(tries))
    assert tries == [3, 2, 1, 4, 2]
    assert waiting == [1] * 3 + [2] * 2 + [3] + [4] * 4 + [5] * 2  # no batch is decoded before its turn


def test_a_device_that_decodes_nothing_is_refused_before_the_first_shard(
    faces: Networks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse_all(*_: Any) -> list[torch.Tensor]:
        raise RuntimeError("torchvision not compiled with nvJPEG support\nmore")

    faces.decoder.check()
    monkeypatch.setattr(device, "decode_jpegs", refuse_all)
    with pytest.raises(UsageError, match=r"on its device \(torchvision not compiled .* support\); install"):
        faces.decoder.check()


def test_only_shards_decoded_on_cuda_are_scored_side_by_side() -> None:
    turns = device.Turns("cpu", side_by_side=True)
    assert turns.take() is turns.lock is turns.take()


def compare_statuses(files: Sequence[bytes], networks: Networks) -> Counter[tuple[str, str]]:
    """How many images get which status by the CPU's decoder, and by the device's."""
    theirs, ours = score(networks, files)
    return Counter((old["status"], new["status"]) for old, new in zip(theirs, ours, strict=True))


def spoil(num_each: int) -> list[bytes]:
    """Drawn pictures of all kinds, each spoilt at one random place of its pixel data."""
    rng, files = random.Random(4), list[bytes]()
    for clean in make_files(draw(5, (320, 240))).values():
        for damage in DAMAGE.values():
            for _ in range(num_each):
                data = bytearray(clean)
                damage(data, rng.randrange(1024, len(data) - 64), rng)
                files.append(bytes(data))
    return files


def test_damage_gives_the_same_statuses_or_passes_unnoticed_on_the_device(faces: Networks) -> None:
    statuses = compare_statuses(spoil(4), faces)
    print(statuses)
    assert sum(statuses.values()) == 13 * 4 * 4 + 1
    unlike = {pair: count for pair, count in statuses.items() if pair[0] != pair[1]}
    assert set(unlike) <= {
        ("corrupt", "ok")
    }  # nothing sound is refused, and nothing refused for another reason
    assert sum(unlike.values()) <= 0.25 * sum(statuses.values())


@pytest.mark.slow
def test_labels_agree_on_real_pictures_and_drawings() -> None:
    """Of 2,000 pictures or more, with the real photographs where they lie beside the repository."""
    drawings = [draw(k, (480, 360), LABELS[k % 4]) for k in range(240)]
    pictures = [
        encode(drawing.resize(size), quality=quality)
        for drawing in drawings
        for size in ((480, 360), (400, 225), (170, 170))
        for quality in (75, 92)
    ]
    faces = make_networks("face", dtype="auto")
    data = Path(__file__).parents[4] / "shared/data"
    for folder in ("faces/val", "scenes/val"):
        pictures += [path.read_bytes() for path in sorted((data / folder).rglob("*.jpg"))]
    preset, config = faces.card.preset, CONFIGS["face"]
    same, levels, furthest = 0, list[float](), 0.0
    for start in range(0, len(pictures), 256):
        encoded = [Encoded(item) for item in pictures[start : start + 256]]
        images = sort_images(encoded, preset, config.max_pixels)
        assert all(isinstance(image, Plain) for image in images.images)
        _, ours = faces.decoder.decode_faces(images, lambda _, *image: decode_image(*image))
        decoded = decode_pixels(encoded, len(encoded), preset, config)
        theirs = decoded.images_NHWC  # type: ignore[union-attr]
        probs = faces.classifier.probs(theirs), faces.classifier.probs(ours)
        same += int((probs[0].argmax(axis=1) == probs[1].argmax(axis=1)).sum())
        furthest = max(furthest, float(np.abs(probs[0] - probs[1]).max()))
        levels += np.abs(ours.numpy().astype(int) - theirs).mean(axis=(1, 2, 3)).tolist()
    print(f"{same / len(pictures):.4f} of {len(pictures):,} labels are the same;", end=" ")
    print(f"{np.mean(levels):.2f} grey levels apart, probabilities at most {furthest:.2f}")
    assert same >= 0.995 * len(pictures)
    assert np.mean(levels) < 1
    assert furthest < 0.25


def test_frames_of_a_device_are_cut_and_measured_as_those_of_the_cpu() -> None:
    picture, preset = draw(2, (900, 700)), open_checkpoint().card.preset
    own = Frame(picture, (1800, 1400))
    there = device.DeviceFrame(torch.from_numpy(np.array(picture)).permute(2, 0, 1), (1800, 1400))
    for crop, expected in (
        (there.cut((600.0, 300.0, 1100.0, 900.0), preset), own.cut((600.0, 300.0, 1100.0, 900.0), preset)),
        (there.shrink(640), own.shrink(640)),
        (there.fit(preset), own.fit(preset)),
    ):
        assert crop.shown == expected.shown
        difference = crop.pixels.numpy().astype(int) - np.asarray(expected.pixels)
        assert np.abs(difference).mean() < 0.5
    assert there.shrink(2000) is there
    (row,) = there.describe_all([there.fit(preset)])
    assert row["brightness"] == pytest.approx(own.describe_all([own.fit(preset)])[0]["brightness"], abs=1e-3)
