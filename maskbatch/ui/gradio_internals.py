"""What the page relies on inside Gradio 6 that Gradio does not document.

test_gradio_internals.py has a test for each part that says what breaks when Gradio changes it. Style sheets
name elements of Gradio too; the tests in a browser cover those.
"""

import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from gradio_client.utils import is_file_obj_with_meta, traverse

UPLOAD_PATH = "/gradio_api/upload"
LOGIN_PATH = "/login"
PAGE_PATHS = re.compile(
    r"/|/(?:assets|static)/.+|/(?:theme\.css|favicon\.ico|login|logout)"
    rf"|{UPLOAD_PATH}(?:_progress)?|/gradio_api/(?:startup-events|heartbeat/\w+|queue/join|queue/data)"
)
"""All that Gradio's page requests, and all that the gate lets in: Gradio's other routes serve files, fetch
URLs, run functions by name and describe the server."""
ABANDONED_S = 120.0
"""An upload is deleted if nobody reads or writes it for so long."""


class Uploads:
    """Gradio's folder for uploads, where it saves each as SHA256/NAME. A browser names its upload by path."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).resolve()

    def check_path(self, file: Mapping[str, Any]) -> Path:
        """The path of an upload. Raises gr.Error for other files and for URLs, which Gradio accepts too."""
        path = Path(str(file.get("path"))).resolve()
        if path.parent.parent != self.folder:
            raise gr.Error("That file was not uploaded here.", print_exception=False)
        return path

    def take(self, file: Mapping[str, Any]) -> bytes:
        """Read an upload and delete it. Raises gr.Error if it is gone."""
        path = self.check_path(file)
        try:
            data = path.read_bytes()
        except OSError as error:  # another visitor sent the same file, and reading it deleted both
            raise gr.Error("The picture did not arrive; send it again.", print_exception=False) from error
        shutil.rmtree(path.parent, ignore_errors=True)
        return data

    def sweep(self) -> None:
        """Delete uploads that broke off or that nobody read."""
        with suppress(FileNotFoundError):  # the next sweep deletes the rest
            for path in self.folder.iterdir():
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


class ClosedBlocks(gr.Blocks):
    """Gradio's page, but it takes no files except `uploads`, and remembers nothing about its visitors."""

    def __init__(self, uploads: Uploads, **settings: Any) -> None:
        super().__init__(**settings)
        self.uploads = uploads

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> Any:
        """Check every file first: Gradio fetches the URL of a file that is not here."""
        traverse(inputs, lambda file: self.uploads.check_path(file) and file, is_file_obj_with_meta)
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> Any:
        """Forget the values that Gradio keeps of each visitor for links, which the gate blocks."""
        values = await super().postprocess_data(block_fn, predictions, state)
        if state is not None:
            state.config_values.clear()
        return values


def read_message(event: gr.EventData) -> Any:
    """What JavaScript sent with `trigger(name, {message})`; None where the public attribute would fail."""
    return (event._data or {}).get("message")
