"""What visitors send: one folder that only this process knows, emptied as soon as a picture is read."""

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

ABANDONED_S = 120.0
"""An upload that nobody wrote to or read for so long is deleted."""


class Uploads:
    """Gradio's folder for uploads: a file lies in it at its sha256 and name."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).resolve()

    def path(self, file: Mapping[str, Any]) -> Path:
        """Where the upload lies that a browser names. Raises gr.Error for any other file, or a URL."""
        path = Path(str(file.get("path"))).resolve()
        if path.parent.parent != self.folder:
            raise gr.Error("That file was not uploaded here.", print_exception=False)
        return path

    def take(self, file: Mapping[str, Any]) -> bytes:
        """The bytes of an upload, which is deleted. Raises gr.Error where it is gone."""
        path = self.path(file)
        try:
            data = path.read_bytes()
        except OSError as error:  # another visitor sent the same file, which was deleted for both
            raise gr.Error("The picture did not arrive; send it again.", print_exception=False) from error
        shutil.rmtree(path.parent, ignore_errors=True)
        return data

    def sweep(self) -> None:
        """Delete what was broken off, or sent and never read."""
        with suppress(FileNotFoundError):  # the rest is for the next time
            for path in self.folder.iterdir():
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
