import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image
from playwright.sync_api import Page, expect

from maskbatch.config import ScoreConfig
from maskbatch.decode.source import Encoded
from maskbatch.model.architectures import build
from maskbatch.model.checkpoint import open_checkpoint, save_checkpoint
from maskbatch.predict.images import Predictor
from maskbatch.ui.picture import PictureScorer
from tests.maskbatch.samples import draw, encode, make_card
from tests.maskbatch.ui.conftest import Server

WIDE = draw(3, (320, 200), "without_mask")
NO_ANSWER = "Add a picture"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(open_checkpoint(), ScoreConfig())


SIDEWAYS = Image.Exif()
SIDEWAYS[ExifTags.Base.Orientation] = 6
GREY_16_BITS = Image.fromarray(np.asarray(WIDE.convert("L")).astype(np.uint16) * 256 + 77)
PICTURES = {
    "turned.jpg": encode(WIDE.transpose(Image.Transpose.ROTATE_90), exif=SIDEWAYS),
    "cmyk.jpg": encode(WIDE.convert("CMYK")),
    "deep.png": encode(GREY_16_BITS, "PNG"),
    "page.tiff": encode(WIDE, "TIFF"),
}


def send(page: Page, name: str, data: bytes) -> None:
    page.locator("#picture input[type=file]").set_input_files(
        {"name": name, "mimeType": "image/jpeg", "buffer": data}
    )


def read_shares(page: Page) -> dict[str, float]:
    """The probabilities on the page, with all digits."""
    bars = page.locator("#answer li")
    bars.first.wait_for()
    read = "bars => bars.map(bar => [bar.dataset.class, Number(bar.dataset.share)])"
    return dict(bars.evaluate_all(read))


@pytest.mark.parametrize("name", PICTURES)
def test_the_model_sees_the_uploaded_bytes_themselves(
    name: str, page: Page, server: Server, predictor: Predictor
) -> None:
    encoded_again, expected = predictor.predict([Encoded(encode(WIDE)), Encoded(PICTURES[name])])
    assert expected.probs != encoded_again.probs
    page.goto(server.url)
    send(page, name, PICTURES[name])
    assert read_shares(page) == expected.probs
    shown = page.locator("#picture img")
    expect(shown).to_have_attribute("src", re.compile("^data:image/jpeg"))
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [320, 200]
    assert server.uploads == []


def test_webcam_pictures_are_scored(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#picture video')?.videoWidth > 0")
    page.get_by_label("capture photo").click()
    assert set(read_shares(page)) == {"with_mask", "without_mask", "incorrect_mask", "no_face"}
    assert server.uploads == []


def test_examples_get_their_labels_and_can_be_removed(page: Page, server: Server) -> None:
    page.goto(server.url)
    tiles = page.locator("#examples button")
    expect(tiles).to_have_count(4)
    for tile in tiles.all():
        tile.click()
        expect(page.locator("#answer h2")).to_have_text(tile.inner_text())
        assert max(read_shares(page).values()) > 0.5
    expect(page.locator("#picture img")).to_have_count(1)
    page.get_by_label("Remove Image").click()
    expect(page.locator("#answer")).to_contain_text(NO_ANSWER)


def test_bad_files_are_explained_and_the_next_is_scored(page: Page, server: Server) -> None:
    page.goto(server.url)
    send(page, "page.jpg", b"<html>502 Bad Gateway</html>")
    expect(page.get_by_role("alert")).to_contain_text("not a readable picture")
    expect(page.get_by_role("alert")).to_contain_text("the file holds HTML or XML, not an image.")
    expect(page.locator("#picture img")).to_have_count(0)
    send(page, "cut.jpg", encode(WIDE)[:2000])
    expect(page.get_by_role("alert")).to_contain_text("ends early")
    send(page, "good.jpg", encode(WIDE))
    assert read_shares(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert server.uploads == []


def test_the_browser_does_not_send_200_mb(page: Page, server: Server, tmp_path: Path) -> None:
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(200_000_000)
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url) if "upload?" in asked.url else None)
    page.goto(server.url)
    page.locator("#examples button").first.click()
    expect(page.locator("#answer h2")).to_be_visible()
    page.locator("#picture input[type=file]").set_input_files(huge)
    expect(page.get_by_text("exceed the maximum allowed size of 64.0 Mb")).to_be_visible()
    expect(page.locator("#answer h2")).to_be_hidden()
    assert sent == [] and server.uploads == []


def test_visitors_cannot_read_each_others_uploads(server: Server) -> None:
    data = encode(WIDE)
    sent = httpx.post(f"{server.url}gradio_api/upload", files={"files": ("mine.jpg", data)})
    (path,) = sent.json()
    assert Path(path).read_bytes() == data
    for url in (f"gradio_api/file={path}", f"file={path}", f"gradio_api/file/{path}"):
        assert httpx.get(server.url + url).status_code == 404
    Path(path).unlink()


def test_the_page_names_its_checkpoint(page: Page, server: Server, predictor: Predictor) -> None:
    page.goto(server.url)
    model = page.locator("#model")
    for text in (
        "default.safetensors",
        predictor.digest,
        "mobilenet_v2, 160 \N{MULTIPLICATION SIGN} 160 pixels",
        "with mask (compliant), without mask, incorrect mask, no face (not assessed)",
        f"less than {100 * predictor.card.review_threshold:.1f}",
    ):
        expect(model).to_contain_text(text)
    confusion = np.array(predictor.card.confusion)
    accuracy = f"{100 * confusion.trace() / confusion.sum():.1f}"
    expect(model).to_contain_text(f"{accuracy}\N{NARROW NO-BREAK SPACE}% of")
    cells = model.locator("tbody tr").evaluate_all("rows => rows.map(row => row.innerText.match(/\\d+/g))")
    assert [[int(count) for count in row] for row in cells] == confusion.tolist()
    page.get_by_text("Model card").click()
    expect(page.get_by_role("heading", name="Model card: ")).to_be_visible()


def open_scorer(path: Path) -> PictureScorer:
    config = ScoreConfig()
    return PictureScorer(Predictor(open_checkpoint(str(path)), config))


def find_classes(answer: str) -> list[str]:
    return re.findall('data-class="(.+?)"', answer)


def test_two_classes_are_enough(tmp_path: Path) -> None:
    classes = ("with_mask", "without_mask")
    card = make_card(classes=classes, not_assessed=(), confusion=((0, 0), (0, 0)), review_threshold=1.0)
    save_checkpoint(tmp_path / "two.safetensors", card, build(card.architecture, 2).state_dict())
    scorer = open_scorer(tmp_path / "two.safetensors")
    shown, answer = scorer.score(encode(WIDE))
    assert shown is not None and tuple(scorer.examples) == classes == tuple(find_classes(answer))
    assert "A run would mark it for review" in answer


def test_three_classes_with_one_not_assessed(small_checkpoint: Path) -> None:
    scorer = open_scorer(small_checkpoint)
    _, answer = scorer.score(encode(WIDE))
    assert list(scorer.examples) == find_classes(answer) == ["with_mask", "without_mask", "no_face"]


def test_an_imported_hugging_face_checkpoint_works(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.training.test_huggingface import NAMES, save
    from training.huggingface import import_checkpoint

    path = tmp_path / "imported.safetensors"
    import_checkpoint(str(save(tmp_path / "hf", "vit")), NAMES, ["with_mask"], path)
    _, answer = open_scorer(path).score(encode(WIDE))
    assert find_classes(answer) == ["with_mask", "without_mask"]
