"""The page's style: the colours of the report, light and dark, and the system's fonts."""

from typing import Any, NamedTuple

import gradio as gr

from maskbatch.ui.rendering import read_text

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "monospace")
HEAD = """
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>
<path d='M1 5q7-4 14 0v3q-2 6-7 6T1 8z' fill='%231d5f8a'/></svg>">
"""


class Colour(NamedTuple):
    """A colour of the report. Our CSS uses its name in COLOURS, Gradio the names in `used_for`."""

    light: str
    dark: str
    used_for: str


COLOURS = {
    "paper": Colour(
        "#fdfdfb",
        "#15181b",
        "body_background_fill background_fill_primary block_background_fill input_background_fill "
        "button_primary_text_color",
    ),
    "ink": Colour("#1b1f23", "#e4e7e9", "body_text_color block_title_text_color button_secondary_text_color"),
    "muted": Colour(
        "#59626b", "#9fa8b0", "body_text_color_subdued block_label_text_color block_info_text_color"
    ),
    "rule": Colour("#dcdfe0", "#343a40", "border_color_primary block_border_color input_border_color"),
    "accent": Colour(
        "#1d5f8a",
        "#7fbbe3",
        "border_color_accent button_primary_background_fill button_primary_border_color link_text_color",
    ),
    "band": Colour("#eceeed", "#23282d", "background_fill_secondary button_secondary_background_fill"),
    "alert": Colour("#b02318", "#ff8b7d", "error_text_color"),
}


def make_style(*more_css: str) -> dict[str, Any]:
    """Arguments for Gradio's `launch`."""
    theme = gr.themes.Base(font=FONT, font_mono=MONO, radius_size="sm").set(
        input_border_width="1px",
        **{name: colour.light for colour in COLOURS.values() for name in colour.used_for.split()},
        **{f"{name}_dark": colour.dark for colour in COLOURS.values() for name in colour.used_for.split()},
    )
    light = "".join(f"--{name}: {colour.light}; " for name, colour in COLOURS.items())
    dark = "".join(f"--{name}: {colour.dark}; " for name, colour in COLOURS.items())
    palette = f":root {{ {light}}}\n.dark {{ {dark}}}\n:root, .dark {{ --color-accent: var(--accent); }}"
    css = "\n".join((palette, read_text("app.css"), *more_css))
    return {"theme": theme, "css": css, "head": HEAD}
