import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image
from playwright.sync_api import Page, expect

from maskbatch.config import ScoreConfig
from maskbatch.model.architectures import build
from maskbatch.model.checkpoint import open_checkpoint, save_checkpoint
from maskbatch.predict.images import Predictor
from maskbatch.score.read import Encoded
from maskbatch.ui.picture import Looker
from tests.maskbatch.samples import draw, encode, make_card
from tests.ui.conftest import Server

WIDE = draw(3, (320, 200), "without_mask")
NOTHING = "Give a picture"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(open_checkpoint(), ScoreConfig())


def turned() -> bytes:
    """A JPEG that lies on its side but for its EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return encode(WIDE.transpose(Image.Transpose.ROTATE_90), exif=exif)


def deep() -> bytes:
    """A PNG of 16-bit grey values."""
    return encode(Image.fromarray(np.asarray(WIDE.convert("L")).astype(np.uint16) * 256 + 77), "PNG")


PICTURES = {
    "turned.jpg": turned(),
    "cmyk.jpg": encode(WIDE.convert("CMYK")),
    "deep.png": deep(),
    "page.tiff": encode(WIDE, "TIFF"),
}


def send(page: Page, name: str, data: bytes) -> None:
    page.locator("#picture input[type=file]").set_input_files(
        {"name": name, "mimeType": "image/jpeg", "buffer": data}
    )


def shares(page: Page) -> dict[str, float]:
    """The probabilities on the page, all digits of them."""
    bars = page.locator("#answer li")
    bars.first.wait_for()
    found = bars.evaluate_all("bars => bars.map(bar => [bar.dataset.class, Number(bar.dataset.share)])")
    return dict(found)


@pytest.mark.parametrize("name", PICTURES)
def test_the_model_sees_the_very_bytes_that_were_uploaded(
    name: str, page: Page, server: Server, predictor: Predictor
) -> None:
    encoded_again, expected = predictor.predict([Encoded(encode(WIDE)), Encoded(PICTURES[name])])
    assert expected.probs != encoded_again.probs
    page.goto(server.url)
    send(page, name, PICTURES[name])
    assert shares(page) == expected.probs
    shown = page.locator("#picture img")
    expect(shown).to_have_attribute("src", re.compile("^data:image/jpeg"))
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [320, 200]
    assert server.kept == []


def test_a_picture_of_the_webcam_is_scored(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#picture video')?.videoWidth > 0")
    page.get_by_label("capture photo").click()
    assert set(shares(page)) == {"with_mask", "without_mask", "incorrect_mask", "no_face"}
    assert server.kept == []


def test_the_examples_are_what_they_are_drawn_as_and_go_with_a_click(page: Page, server: Server) -> None:
    page.goto(server.url)
    tiles = page.locator("#examples button")
    expect(tiles).to_have_count(4)
    for tile in tiles.all():
        tile.click()
        expect(page.locator("#answer h2")).to_have_text(tile.inner_text())
        assert max(shares(page).values()) > 0.5
    expect(page.locator("#picture img")).to_have_count(1)
    page.get_by_label("Remove Image").click()
    expect(page.locator("#answer")).to_contain_text(NOTHING)


def test_what_is_no_picture_is_said_and_the_next_one_is_scored(page: Page, server: Server) -> None:
    page.goto(server.url)
    send(page, "page.jpg", b"<html>502 Bad Gateway</html>")
    expect(page.get_by_role("alert")).to_contain_text("no picture that can be read")
    expect(page.get_by_role("alert")).to_contain_text("the file holds HTML or XML, not an image.")
    expect(page.locator("#picture img")).to_have_count(0)
    send(page, "cut.jpg", encode(WIDE)[:2000])
    expect(page.get_by_role("alert")).to_contain_text("ends early")
    send(page, "good.jpg", encode(WIDE))
    assert shares(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert server.kept == []


def test_a_file_of_200_mb_is_refused_before_it_is_sent_and_the_old_answer_goes(
    page: Page, server: Server, tmp_path: Path
) -> None:
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
    assert sent == [] and server.kept == []


def test_no_visitor_reads_what_another_one_sent(server: Server) -> None:
    data = encode(WIDE)
    sent = httpx.post(f"{server.url}gradio_api/upload", files={"files": ("mine.jpg", data)})
    (path,) = sent.json()
    assert Path(path).read_bytes() == data
    for url in (f"gradio_api/file={path}", f"file={path}", f"gradio_api/file/{path}"):
        assert httpx.get(server.url + url).status_code == 404
    Path(path).unlink()


def test_the_page_says_which_checkpoint_answers(page: Page, server: Server, predictor: Predictor) -> None:
    page.goto(server.url)
    model = page.locator("#model")
    for text in (
        "default.safetensors",
        predictor.digest,
        "mobilenet_v2, 160 \N{MULTIPLICATION SIGN} 160 pixels",
        "with mask (compliant), without mask, incorrect mask, no face (not assessed)",
        f"less certain than {100 * predictor.card.review_threshold:.1f}",
    ):
        expect(model).to_contain_text(text)
    confusion = np.array(predictor.card.confusion)
    expect(model).to_contain_text(
        f"{100 * confusion.trace() / confusion.sum():.1f}\N{NARROW NO-BREAK SPACE}% of"
    )
    cells = model.locator("tbody tr").evaluate_all("rows => rows.map(row => row.innerText.match(/\\d+/g))")
    assert [[int(count) for count in row] for row in cells] == confusion.tolist()
    page.get_by_text("Model card").click()
    expect(page.get_by_role("heading", name="Model card: default")).to_be_visible()


def looker(path: Path) -> Looker:
    config = ScoreConfig()
    return Looker(Predictor(open_checkpoint(str(path)), config), config)


def test_two_classes_are_enough(tmp_path: Path) -> None:
    card = make_card(
        classes=("with_mask", "without_mask"),
        not_assessed=(),
        confusion=((0, 0), (0, 0)),
        review_threshold=1.0,
    )
    state = build(card.architecture, 2).state_dict()
    save_checkpoint(tmp_path / "two.safetensors", card, state)
    made = looker(tmp_path / "two.safetensors")
    assert list(made.examples) == ["with_mask", "without_mask"]
    shown, said = made.look(encode(WIDE))
    assert shown is not None
    assert len(re.findall("data-class", said)) == 2 and "Would be marked for review" in said


def test_three_classes_and_one_of_them_not_assessed(small_checkpoint: Path) -> None:
    made = looker(small_checkpoint)
    assert list(made.examples) == ["with_mask", "without_mask", "no_face"]
    _, said = made.look(encode(WIDE))
    assert re.findall('data-class="(.+?)"', said) == ["with_mask", "without_mask", "no_face"]


def test_an_imported_hugging_face_checkpoint_works(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.training.test_huggingface import NAMES, save
    from training.huggingface import import_checkpoint

    path = tmp_path / "imported.safetensors"
    import_checkpoint(str(save(tmp_path / "hf", "vit")), NAMES, ["with_mask"], path)
    _, said = looker(path).look(encode(WIDE))
    assert re.findall('data-class="(.+?)"', said) == ["with_mask", "without_mask"]
