"""The page of `maskbatch ui` and its server."""

import time
import webbrowser
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from maskbatch.config import ScoreConfig, make_config
from maskbatch.model.checkpoint import File, find_checkpoint, find_detector, open_networks
from maskbatch.predict.images import Predictor
from maskbatch.progress import say
from maskbatch.runs.committed import CommittedRun
from maskbatch.stores.options import StorageOptions
from maskbatch.ui import access, picture, review
from maskbatch.ui.gate import Gate
from maskbatch.ui.gradio_internals import ClosedBlocks, Uploads
from maskbatch.ui.theme import make_style

LOGIN = "Enter your name, which is saved with your judgements, and the password that you were given."
OFF: dict[str, Any] = dict.fromkeys(
    ("share", "inbrowser", "run_history", "enable_monitoring", "mcp_server", "pwa", "ssr_mode"), False
)
"""Features of Gradio that stay off, even if its environment variables ask for them."""
SWEEP_EVERY_S = 30.0


def run_server(
    folder: str,
    listener: access.Listener,
    options: StorageOptions,
    open_browser: bool,
    *,
    values: Mapping[str, Any],
    run: str | None,
    corrections: str | None,
) -> None:
    """Serve the page until KeyboardInterrupt. Uploads go through `folder`. Raises UsageError.

    `values`: checkpoint, detector, view and detect_px of the tab One picture, those that are set; the others
    are those of `run`.
    """
    with ExitStack() as stack:
        run_review = stack.enter_context(review.open_review(run, corrections, options)) if run else None
        predictor = _open_predictor(values, run_review.run if run_review else None)
        uploads = Uploads(folder)
        page = _build_page(picture.PictureScorer(predictor), run_review, uploads)
        stack.callback(page.close, verbose=False)
        gate = Middleware(Gate, names=listener.names, max_bytes=predictor.config.max_bytes)
        _, url, _ = page.launch(
            server_name=f"[{listener.host}]" if ":" in listener.host else listener.host,
            server_port=listener.port,
            auth=listener.login,
            auth_message=LOGIN,
            max_file_size=predictor.config.max_bytes,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            app_kwargs={"middleware": [gate]},
            **make_style(review.CSS),
            **OFF,
        )
        url = url.replace("//localhost:", f"//{access.find_public_host(listener.host)}:")
        say(f"maskbatch ui: {url} (press Ctrl-C to stop)")
        if open_browser:
            webbrowser.open(url)
        while True:
            time.sleep(SWEEP_EVERY_S)
            uploads.sweep()


def _open_predictor(values: Mapping[str, Any], run: CommittedRun | None) -> Predictor:
    """What scores single pictures: as `values` say, else as the run did, else by the packaged networks."""
    given = {name: values[name] for name in ("view", "detect_px") if name in values}
    if run and given.get("view", run.score.view) == run.score.view:
        given = {"view": run.score.view, "detect_px": run.score.detect_px} | given
    config = make_config(ScoreConfig, given)
    checkpoint, detector = open_networks(values.get("checkpoint"), values.get("detector"), config.view)
    if run and "checkpoint" not in values:
        checkpoint = _prefer(find_checkpoint(run.digest, run.checkpoint.path), checkpoint)
    if run and run.detector and detector and "detector" not in values:
        detector = _prefer(find_detector(run.detector.digest, run.detector.path), detector)
    return Predictor(checkpoint, config, detector=detector)


def _prefer(own: File | None, packaged: File) -> File:
    """The run's `own` file, where it is found."""
    if own is None:
        noun = packaged.noun
        say(f"The run's {noun} is gone or has moved; the tab One picture uses the packaged {noun}.")
    return own or packaged


def _build_page(
    scorer: picture.PictureScorer, run_review: review.Review | None, uploads: Uploads
) -> ClosedBlocks:
    page = ClosedBlocks(uploads, title="maskbatch", analytics_enabled=False)
    with page:
        gr.HTML("<h1>maskbatch</h1>", elem_id="title", apply_default_css=False)
        with gr.Tabs(overflow_behavior="wrap"):
            if run_review is not None:
                review.build_tabs(run_review)
            with gr.Tab("One picture"):
                picture.build_tab(scorer, uploads)
    return page
