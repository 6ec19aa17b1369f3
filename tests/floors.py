"""A small score, report, verify and predict by the command line: `make floors` runs it with the lowest versions.

It needs nothing but maskbatch itself, so that no tool of the tests lifts a version.
"""

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import numpy as np

from maskbatch.drawing.gate import LABELS, Gate, draw_snapshot

LIBRARIES = (
    "pyarrow",
    "numpy",
    "pillow",
    "pandas",
    "ray",
    "torch",
    "torchvision",
    "urllib3",
    "obstore",
    "s3fs",
)
LAYOUT = ("--layout", "{camera}/{captured_at:%Y-%m-%d/%H%M%S}.jpg")


def run(*arguments: object, cwd: Path, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """What `maskbatch` prints as JSON."""
    command = [sys.executable, "-W", "error::DeprecationWarning:maskbatch", "-m", "maskbatch"]
    ended = subprocess.run(
        [*command, *map(str, arguments), "--json"], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    print(f"maskbatch {' '.join(map(str, arguments))}: {ended.returncode}", flush=True)
    if ended.returncode not in codes:
        sys.exit(f"{ended.stdout}\n{ended.stderr}")
    return dict(json.loads(ended.stdout))


def draw(k: int) -> bytes:
    rng, sink = np.random.default_rng(k), io.BytesIO()
    draw_snapshot(LABELS[k % 4], Gate.draw_lots(rng), rng, size=(160, 120)).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def write_archive(root: Path) -> None:
    """Forty snapshots as files, in a tar and in a zip; one is cut off."""
    names = {f"gate-{k % 2}/2026-10-{k // 10 + 1:02d}/08{k:02d}00.jpg": draw(k) for k in range(40)}
    names["gate-1/2026-10-01/080300.jpg"] = draw(3)[:900]
    for k, (name, data) in enumerate(names.items()):
        if k < 20:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    with tarfile.open(root / "more.tar", "w") as tar, zipfile.ZipFile(root / "more.zip", "w", 8) as packed:
        for name, data in list(names.items())[20:30]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, data in list(names.items())[30:]:
            packed.writestr(name, data)


def check(folder: Path) -> None:
    write_archive(folder / "archive")
    scored = run(
        "score", "archive", "archive/more.tar", "archive/more.zip", "--out", "run", *LAYOUT, cwd=folder
    )
    assert scored["planned"] == 40 and scored["statuses"] == {"ok": 39, "truncated": 1}, scored
    verified = run("verify", "run", "--sample", 40, cwd=folder)
    assert verified["verified"] and verified["bit_equal"] == 39, verified
    assert run("report", "run", "--thumbnails", cwd=folder)["overall"]["listed"] == 40
    assert run("status", "run", cwd=folder)["state"] == "committed"
    (folder / "archive/gate-0/2026-10-01/090000.jpg").write_bytes(draw(99))
    archive = ("archive", "archive/more.tar", "archive/more.zip")
    second = run("score", *archive, "--out", "run", "--reuse", "run", *LAYOUT, cwd=folder)
    assert (second["planned"], second["carried"]) == (41, 40), second
    assert run("compare", "run", "run.v2", cwd=folder)["shared"] == 40
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    Thread(target=server.serve_forever, daemon=True).start()
    web = f"http://127.0.0.1:{server.server_port}/archive/gate-0/2026-10-01/090000.jpg"
    image = "archive/gate-0/2026-10-01/080000.jpg"
    predicted = run("predict", image, web, "--show", "seen.png", cwd=folder)
    assert [row["status"] for row in predicted["images"]] == ["ok", "ok"], predicted
    server.shutdown()


if __name__ == "__main__":
    print(", ".join(f"{name} {version(name)}" for name in LIBRARIES))
    with TemporaryDirectory(prefix="maskbatch-floors-") as name:
        check(Path(name))
    print("floors: all is well")
