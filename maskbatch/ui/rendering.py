"""What the page's parts are made from: the files beside this module."""

from base64 import b64encode
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

PLAIN: Any = {"apply_default_css": False}
"""For gr.HTML: our own CSS is enough."""


def text(name: str) -> str:
    """A file of this package."""
    return (resources.files("maskbatch.ui") / name).read_text(encoding="utf-8")


def rendered(name: str, **values: Any) -> str:
    """A template with its values, escaped."""
    return _environment().get_template(name).render(values)


def data_url(data: bytes, kind: str = "jpeg") -> str:
    """A picture that needs no request."""
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("maskbatch.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
