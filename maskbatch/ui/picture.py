"""The tab for one picture: what the checkpoint says about it, and the checkpoint's card."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from maskbatch.decode.source import Encoded
from maskbatch.drawing.gate import LABELS, Gate, draw_snapshot
from maskbatch.drawing.scene import Lobby, draw_scene
from maskbatch.predict.boxes import count_faces, draw_boxes, name_face
from maskbatch.predict.images import Predictor
from maskbatch.predict.result import Prediction
from maskbatch.review.pictures import encode_jpeg
from maskbatch.ui.gradio_internals import Uploads
from maskbatch.ui.rendering import PLAIN, make_data_url, render

SHOWN_PX = (320, 1024)
"""Least and most pixels of the longer side of the picture on the page."""
EXAMPLE_SEED = 42
EXAMPLE_PX = (960, 540)
CROWDS = {"two people": 2, "a crowd": 9, "nobody": 0}
"""People in each example of a whole scene."""
IN_WORDS = {
    "truncated": "The file ends early",
    "corrupt": "The file is damaged",
    "unsupported": "This file is not a readable picture",
    "too_large": "The picture is larger than allowed",
    "score_error": "The model gave no finite number",
}
"""Each status in plain words."""
TILES_JS = """
element.addEventListener('click', event => {
  const tile = event.target.closest('button');
  if (tile) trigger('click', {number: Number(tile.dataset.number)});
});
"""
Answer = tuple[dict[str, str] | None, str]
"""The picture as gr.Image takes it, or None, and the answer as HTML."""


class PictureScorer:
    """Scores the pictures of all visitors, one at a time; the first call, which is slow, is already done."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.examples = _draw_examples(predictor)
        self._lock = threading.Lock()
        self.score(next(iter(self.examples.values()), _draw_gate(LABELS[0])))

    def score(self, data: bytes) -> Answer:
        with self._lock:
            (prediction,) = self.predictor.predict([Encoded(data, num_bytes=len(data))])
        card, shown, picture = self.predictor.card, list[Image.Image](), None
        if prediction.status == "ok":
            side = int(np.clip(max(prediction.width or 0, prediction.height or 0), *SHOWN_PX))
            prediction = self.predictor.draw(prediction, data, (side, side))
            picture, shown = _show(prediction)
        html = render(
            "answer.html",
            prediction=prediction,
            card=card,
            plain=IN_WORDS,
            views=[make_data_url(encode_jpeg(image)) for image in shown],
            count_faces=count_faces,
            name_face=name_face,
        )
        return picture, html


def _show(prediction: Prediction) -> tuple[dict[str, str] | None, list[Image.Image]]:
    """The picture, with the boxes of a scene's faces, and what the model sees: all of it, or each face."""
    picture, faces = prediction.thumbnail, prediction.faces
    if picture and faces is not None:
        picture = draw_boxes(picture, prediction)
    seen = [Image.fromarray(prediction.model_input)] if faces is None else [face.crop for face in faces]
    url = {"url": make_data_url(encode_jpeg(picture))} if picture else None
    return url, [image for image in seen if image]


def build_tab(scorer: PictureScorer, uploads: Uploads) -> None:
    """Make the components of the tab, inside of gr.Blocks."""
    no_answer = render("answer.html", prediction=None)

    def score_upload(file: Mapping[str, Any] | None) -> Answer:
        if not file or not file["path"]:  # a removed picture comes as None, or as the one that was shown
            return None, no_answer
        return scorer.score(uploads.take(file))

    def score_example(event: gr.EventData) -> Answer:
        return scorer.score(list(scorer.examples.values())[int(event.number)])

    with gr.Row():
        with gr.Column(min_width=300):
            picture = gr.Image(
                type="filepath",
                sources=["upload", "webcam", "clipboard"],
                show_label=False,
                buttons=["fullscreen"],
                height=400,
                elem_id="picture",
            )
        with gr.Column(min_width=300):
            answer = gr.HTML(no_answer, elem_id="answer", **PLAIN)
    # Gradio's own processing would decode most pictures and encode them again
    raw: dict[str, Any] = {"outputs": [picture, answer], "preprocess": False, "postprocess": False}
    picture.input(score_upload, picture, show_progress="minimal", **raw)
    if scorer.examples:
        tiles = {label: make_data_url(example) for label, example in scorer.examples.items()}
        html = render("examples.html", tiles=tiles)
        examples = gr.HTML(html, js_on_load=TILES_JS, elem_id="examples", **PLAIN)
        examples.click(score_example, show_progress="hidden", **raw)
    predictor = scorer.predictor
    gr.HTML(render("model.html", predictor=predictor, card=predictor.card), elem_id="model", **PLAIN)
    model_card = Path(predictor.path).with_name("MODEL_CARD.md")
    if model_card.is_file():
        with gr.Accordion("Model card", open=False, elem_id="model-card"):
            gr.Markdown(model_card.read_text(errors="replace"))


def _draw_examples(predictor: Predictor) -> dict[str, bytes]:
    """Pictures to try, by what they show."""
    if predictor.detector:
        return {name: _draw_lobby(num) for name, num in CROWDS.items()}
    return {label: _draw_gate(label) for label in LABELS if label in predictor.card.classes}


def _draw_gate(label: str) -> bytes:
    rng = np.random.default_rng(EXAMPLE_SEED)
    return encode_jpeg(draw_snapshot(label, Gate.draw_lots(rng), rng))


def _draw_lobby(num_people: int) -> bytes:
    rng = np.random.default_rng(EXAMPLE_SEED)
    lobby = Lobby.draw_lots(EXAMPLE_PX, rng)
    people = lobby.gather([LABELS[i % 3] for i in range(num_people)], rng)
    return encode_jpeg(draw_scene(people, lobby, rng)[0])
