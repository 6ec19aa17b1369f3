"""The tab for one picture: what the checkpoint says of it, and which checkpoint that is."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from maskbatch.config import ScoreConfig
from maskbatch.drawing import LABELS, Gate, draw_snapshot
from maskbatch.predict.images import Predictor
from maskbatch.review.pictures import draw_upright, encode_jpeg
from maskbatch.score.read import Encoded
from maskbatch.ui.rendering import PLAIN, data_url, rendered
from maskbatch.ui.uploads import Uploads

SHOWN_PX = (320, 1024)
"""Least and most pixels of the longer side of the picture that the page shows."""
EXAMPLE_SEED = 42
MODEL_CARD = "MODEL_CARD.md"
IN_WORDS = {
    "truncated": "The file ends early",
    "corrupt": "The file is damaged",
    "unsupported": "This is no picture that can be read",
    "too_large": "The picture is larger than allowed",
    "score_error": "The model gave no finite number",
}
"""What a status means to somebody who sees one picture."""
PRESSED = """
element.addEventListener('click', event => {
  const tile = event.target.closest('button');
  if (tile) trigger('click', {number: Number(tile.dataset.number)});
});
"""
Answer = tuple[dict[str, str] | None, str]
"""The picture as gr.Image takes it, where it can be shown, and what is said of it, as HTML."""


class Looker:
    """One predictor for all visitors, one picture at a time; its first answer is behind it."""

    def __init__(self, predictor: Predictor, config: ScoreConfig) -> None:
        self.predictor, self.config = predictor, config
        self.examples = {label: _draw(label) for label in LABELS if label in predictor.card.classes}
        self._one_at_a_time = threading.Lock()
        self.look(_draw(LABELS[0]))

    def look(self, data: bytes) -> Answer:
        with self._one_at_a_time:
            (prediction,) = self.predictor.predict([Encoded(data, num_bytes=len(data))])
        seen, shown = None, None
        if prediction.status == "ok":
            seen = data_url(encode_jpeg(Image.fromarray(prediction.image)))
            side = int(np.clip(max(prediction.width or 0, prediction.height or 0), *SHOWN_PX))
            shown = {"url": data_url(encode_jpeg(draw_upright(data, (side, side), self.config.max_pixels)))}
        card = self.predictor.card
        return shown, rendered("answer.html", one=prediction, card=card, plain=IN_WORDS, seen=seen)


def tab(looker: Looker, uploads: Uploads) -> None:
    """The components of the tab, to be made inside of gr.Blocks."""

    def uploaded(file: Mapping[str, Any] | None) -> Answer:
        if not file or not file["path"]:  # removed, which at times comes as the picture that was shown
            return None, rendered("answer.html", one=None)
        return looker.look(uploads.take(file))

    def chosen(event: gr.EventData) -> Answer:
        return looker.look(list(looker.examples.values())[int(event.number)])

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
            answer = gr.HTML(rendered("answer.html", one=None), elem_id="answer", **PLAIN)
    # gr.Image's own way in would decode most pictures and encode them again, so it is left out
    raw: dict[str, Any] = {"outputs": [picture, answer], "preprocess": False, "postprocess": False}
    picture.input(uploaded, picture, show_progress="minimal", **raw)
    if looker.examples:
        tiles = {label: data_url(jpeg) for label, jpeg in looker.examples.items()}
        drawn = gr.HTML(
            rendered("examples.html", tiles=tiles), js_on_load=PRESSED, elem_id="examples", **PLAIN
        )
        drawn.click(chosen, show_progress="hidden", **raw)
    gr.HTML(
        rendered("model.html", predictor=looker.predictor, card=looker.predictor.card),
        elem_id="model",
        **PLAIN,
    )
    beside = Path(looker.predictor.path).parent / MODEL_CARD
    if beside.is_file():
        with gr.Accordion("Model card", open=False, elem_id="model-card"):
            gr.Markdown(beside.read_text(errors="replace"))


def _draw(label: str) -> bytes:
    rng = np.random.default_rng(EXAMPLE_SEED)
    return encode_jpeg(draw_snapshot(label, Gate.draw_lots(rng), rng))
