"""Draw docs/report.svg, the README's picture, from the demo's report.

python docs/report_picture.py
"""

import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from maskbatch import demo
from maskbatch.terminal import print_report

if __name__ == "__main__":
    result, compared = demo.run(Path("maskbatch-demo"), 720)
    console = Console(record=True, width=108, highlight=False, file=io.StringIO())
    print_report(result.report, console, ("overall", "by_site", "by_camera"))
    compared.print(console, result.report.overall)
    svg = console.export_svg(title="maskbatch demo", theme=MONOKAI)
    fonts = re.compile(r"@font-face \{.*?\}", re.DOTALL)  # they would be fetched from a stranger's host
    Path(__file__).with_name("report.svg").write_text(fonts.sub("", svg))
