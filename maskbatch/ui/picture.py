"""The tab for one picture: what the checkpoint says about it, and the checkpoint's card."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from maskbatch.drawing.gate import LABELS, Gate, draw_snapshot
from maskbatch.predict.images import Predictor
from maskbatch.review.pictures import draw_upright, encode_jpeg
from maskbatch.score.read import Encoded
from maskbatch.ui.gradio_internals import Uploads
from maskbatch.ui.rendering import PLAIN, make_data_url, render

SHOWN_PX = (320, 1024)
"""Least and most pixels of the longer side of the picture on the page."""
EXAMPLE_SEED = 42
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
        self.examples = {label: _draw_example(label) for label in LABELS if label in predictor.card.classes}
        self._lock = threading.Lock()
        self.score(_draw_example(LABELS[0]))

    def score(self, data: bytes) -> Answer:
        with self._lock:
            (prediction,) = self.predictor.predict([Encoded(data, num_bytes=len(data))])
        model_view, picture = None, None
        if prediction.status == "ok":
            model_view = make_data_url(encode_jpeg(Image.fromarray(prediction.model_input)))
            side = int(np.clip(max(prediction.width or 0, prediction.height or 0), *SHOWN_PX))
            upright = draw_upright(data, (side, side), self.predictor.config.max_pixels)
            picture = {"url": make_data_url(encode_jpeg(upright))}
        card = self.predictor.card
        html = render("answer.html", prediction=prediction, card=card, plain=IN_WORDS, view=model_view)
        return picture, html


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


def _draw_example(label: str) -> bytes:
    rng = np.random.default_rng(EXAMPLE_SEED)
    return encode_jpeg(draw_snapshot(label, Gate.draw_lots(rng), rng))
