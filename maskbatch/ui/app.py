"""The page of `maskbatch ui` and its server."""

import time
import webbrowser
from collections.abc import Collection
from contextlib import ExitStack
from typing import Any

import gradio as gr
from gradio_client.utils import is_file_obj_with_meta, traverse
from starlette.middleware import Middleware

from maskbatch.config import ScoreConfig
from maskbatch.model.checkpoint import Checkpoint, find_checkpoint, open_checkpoint
from maskbatch.predict.images import Predictor
from maskbatch.progress import say
from maskbatch.runs.committed import CommittedRun
from maskbatch.stores.options import StorageOptions
from maskbatch.ui import access, picture, review
from maskbatch.ui.gate import Gate
from maskbatch.ui.look import look
from maskbatch.ui.uploads import Uploads

LOGIN = "Your name, as it shall stand beside what you judge, and the password that you were given."
OFF: dict[str, Any] = dict.fromkeys(
    ("share", "inbrowser", "run_history", "enable_monitoring", "mcp_server", "pwa", "ssr_mode"), False
)
"""Of Gradio's own, also where its environment variables ask for it."""
SWEEP_EVERY_S = 30.0


def serve(
    folder: str,
    *,
    checkpoint: str | None,
    run: str | None,
    corrections: str | None,
    host: str,
    port: int | None,
    login: access.Login | None,
    hosts: Collection[str] | None,
    open_browser: bool,
    options: StorageOptions,
) -> None:
    """Serve the page until KeyboardInterrupt; uploads go through `folder`. Raises UsageError.

    `login` asks for a name and a password; `hosts` are the names that the server answers to, None for any.
    """
    config = ScoreConfig()
    with ExitStack() as stack:
        reviewing = stack.enter_context(review.Reviewing.open(run, corrections, options)) if run else None
        opened = _checkpoint(checkpoint, reviewing.one if reviewing else None)
        looker = picture.Looker(Predictor(opened, config), config)
        uploads = Uploads(folder)
        page = _page(looker, reviewing, uploads)
        stack.callback(page.close, verbose=False)
        gate = Middleware(Gate, hosts=hosts, max_bytes=config.max_bytes)
        _, url, _ = page.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            auth=login,
            auth_message=LOGIN,
            max_file_size=config.max_bytes,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            app_kwargs={"middleware": [gate]},
            **look(review.CSS),
            **OFF,
        )
        url = url.replace("//localhost:", f"//{access.reachable(host)}:")
        say(f"maskbatch ui: {url} (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(url)
        while True:
            time.sleep(SWEEP_EVERY_S)
            uploads.sweep()


def _checkpoint(named: str | None, one: CommittedRun | None) -> Checkpoint:
    """The one that was named, else the run's, else the packaged one."""
    if named is None and one is not None:
        if found := find_checkpoint(one.digest, one.checkpoint.path):
            return found
        say("The run's checkpoint is not where it was; the tab for one picture shows the packaged one.")
    return open_checkpoint(named)


def _page(looker: picture.Looker, reviewing: review.Reviewing | None, uploads: Uploads) -> "Page":
    page = Page(uploads, title="maskbatch", analytics_enabled=False)
    with page:
        gr.HTML("<h1>maskbatch</h1>", elem_id="title", apply_default_css=False)
        with gr.Tabs(overflow_behavior="wrap"):
            if reviewing is not None:
                review.tabs(reviewing)
            with gr.Tab("One picture"):
                picture.tab(looker, uploads)
    return page


class Page(gr.Blocks):
    """Gradio's page, without what it would fetch and remember on its own."""

    def __init__(self, uploads: Uploads, **settings: Any) -> None:
        super().__init__(**settings)
        self.uploads = uploads

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> Any:
        """Only what was uploaded comes in; Gradio would fetch the URL of a file that lies elsewhere."""
        traverse(inputs, lambda file: self.uploads.path(file) and file, is_file_obj_with_meta)
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> Any:
        """Gradio would remember what each visitor sent and was shown, for links that are closed here."""
        shown = await super().postprocess_data(block_fn, predictions, state)
        if state is not None:
            state.config_values.clear()
        return shown
