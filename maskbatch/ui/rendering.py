"""Make parts of the page from the files beside this module."""

from base64 import b64encode
from importlib import resources
from typing import Any

from maskbatch.visible import open_templates

PLAIN: Any = {"apply_default_css": False}
"""Arguments of gr.HTML, for our own CSS alone."""


def read_text(name: str) -> str:
    """Read a file of this package."""
    return (resources.files("maskbatch.ui") / name).read_text(encoding="utf-8")


def render(name: str, **values: Any) -> str:
    """Fill in a template; values are escaped."""
    return open_templates("maskbatch.ui").get_template(name).render(values)


def make_data_url(jpeg: bytes) -> str:
    """A URL that holds the picture itself, so that the browser needs no request."""
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"
