"""What the PNG of --show says, read back from its pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageColor

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint
from maskbatch.predict import annotate
from maskbatch.predict.images import predict_images
from maskbatch.predict.result import Prediction
from tests.conftest import Cli
from tests.maskbatch.samples import draw, encode, write_files

BLUE, GREEN = (20, 40, 200), (30, 180, 60)
TEXT_LEFT = 2 * annotate.MARGIN_PX + annotate.PICTURE_PX[0]


def predict(uri: str = "file:///a.jpg", **probs: float) -> Prediction:
    label = max(probs, key=probs.__getitem__) if probs else None
    return Prediction(
        uri=uri, status="ok" if probs else "truncated", error=None if probs else "JPEG data ends early",
        label=label, confidence=probs[label] if label else None, probs=probs or None, needs_review=False,
        width=9, height=9, model_input=np.zeros((8, 8, 3), np.uint8),
    )  # fmt: skip


def write(path: Path, *predictions: Prediction) -> np.ndarray:
    """The pixels of the sheet."""
    annotate.write_sheet(path, predictions)
    with Image.open(path) as sheet:
        assert (sheet.format, sheet.mode, sheet.width) == ("PNG", "RGB", annotate.WIDTH_PX)
        return np.asarray(sheet).astype(int)


def like(pixels: np.ndarray, colour: str | tuple[int, ...]) -> np.ndarray:
    """Where (H, W) the pixels have a colour, or nearly one of the pictures, which were JPEGs."""
    named = isinstance(colour, str)
    wanted = ImageColor.getrgb(colour) if named else colour
    return np.abs(pixels - wanted).max(axis=2) <= (0 if named else 12)


def test_each_picture_is_upright_and_whole(tmp_path: Path, checkpoint: Checkpoint) -> None:
    halves = Image.new("RGB", (400, 200), BLUE)
    halves.paste(GREEN, (0, 0, 200, 200))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # its left is up, once it is turned
    line = encode(Image.new("RGB", (900, 9), BLUE), "PNG")
    files = {"wide.jpg": encode(halves), "high.jpg": encode(halves, exif=turned), "line.png": line}
    write_files(tmp_path, files)
    names = [str(tmp_path / name) for name in files]
    images = predict_images(names, checkpoint=checkpoint.path, box_px=annotate.PICTURE_PX).images
    assert [image.thumbnail.size for image in images] == [(320, 160), (120, 240), (320, 3)]
    for image, axis in ((images[0], 1), (images[1], 0)):
        pixels = write(tmp_path / "out.png", image)[:, :TEXT_LEFT]
        green, blue = (np.argwhere(like(pixels, colour)) for colour in (GREEN, BLUE))
        assert green[:, axis].max() < blue[:, axis].min()
        half = image.thumbnail.width * image.thumbnail.height / 2
        assert (len(green), len(blue)) == pytest.approx((half, half), rel=0.05)
    rows = [write(tmp_path / "out.png", image) for image in images]
    assert np.array_equal(np.concatenate(rows), write(tmp_path / "out.png", *images))


@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.05, 0.9, 0.05, 0.0)])
def test_bars_are_as_long_as_their_probabilities(shares: tuple[float, ...], tmp_path: Path) -> None:
    names = ("with_mask", "without_mask", "incorrect_mask", "no_face")
    pixels = write(tmp_path / "out.png", predict(**dict(zip(names, shares, strict=False))))
    bars = like(pixels, annotate.ACCENT).sum(axis=1)
    tracks = like(pixels, annotate.TRACK)[:, TEXT_LEFT:].sum(axis=1)
    tops = [annotate.MARGIN_PX + 68 + i * annotate.BAR_PX + 10 for i in range(len(shares))]
    whole = bars[tops[0]] + tracks[tops[0]]
    assert whole > 300
    for top, share in zip(tops, shares, strict=True):
        assert bars[top] / whole == pytest.approx(share, abs=0.01)


def test_a_bad_image_has_its_status_in_red_and_no_bars(tmp_path: Path) -> None:
    pixels = write(tmp_path / "out.png", predict())
    assert like(pixels, annotate.ALERT).sum() > 200
    assert not like(pixels, annotate.ACCENT).any()
    assert like(pixels[:, :TEXT_LEFT], annotate.TRACK).sum() == pytest.approx(320 * 140, rel=0.05)


def test_long_and_odd_names_fit_and_keep_their_ends(tmp_path: Path) -> None:
    long = "s3://bucket/" + "a very long folder/" * 30
    sheets = [
        write(tmp_path / "out.png", predict(f"{long}{end}", with_mask=0.9, **{"x" * 200: 0.1}))
        for end in ("one.jpg", "two.jpg", "new\nline\x1b[31m\u0416\u4e2d.jpg")
    ]
    for pixels in sheets:
        assert like(pixels[:, annotate.WIDTH_PX - annotate.MARGIN_PX + 2 :], annotate.PAPER).all()
    assert not np.array_equal(sheets[0], sheets[1])


def test_the_command_writes_one_png(tmp_path: Path, checkpoint: Checkpoint, cli: Cli) -> None:
    draw(1).save(tmp_path / "a.jpg")
    done = cli("predict", "a.jpg", "a.jpg", "--show", "out/sheet.png", "--checkpoint", checkpoint.path)
    assert (done.returncode, done.stderr) == (0, "Pictures: out/sheet.png\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sheet.png"]
    for name, images, message in (
        ("x.jpg", 1, r"--show x\.jpg: a \.png file expected"),
        ("x.png", 101, r"--show x\.png: 101 images, at most 100 fit"),
    ):
        with pytest.raises(UsageError, match=message):
            annotate.check_sheet_path(Path(name), ["a.jpg"] * images)


def test_the_sheet_never_replaces_an_image(tmp_path: Path) -> None:
    draw(1).save(tmp_path / "a b.png")
    (tmp_path / "link.png").symlink_to("a b.png")
    for image in (f"{tmp_path}/a b.png", f"file://{tmp_path}/a b.png", f"{tmp_path}/link.png"):
        for name in ("a b.png", "link.png"):
            with pytest.raises(UsageError, match="one of the images and would be lost"):
                annotate.check_sheet_path(tmp_path / name, ["https://h/" + 300 * "a", image])
        annotate.check_sheet_path(tmp_path / "c.png", [image, f"{tmp_path}/c.png"])
