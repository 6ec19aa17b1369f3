"""Images that end their worker, on a real embedded Ray: each becomes its own row, everything else is scored."""

import json
import shutil
from pathlib import Path

import pytest

from maskbatch.decode.sandbox import CRASHED
from maskbatch.schema import explain_timeout
from tests.conftest import LAYOUT, Cli, table_of
from tests.poison import many_scans, poison, write_hook

FORMS = {
    "workers on CPUs": "",
    "two stages": "import ray, functools\nray.init = functools.partial(ray.init, num_gpus=1)",
}


@pytest.fixture(scope="module")
def poisoned(
    archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, tuple[str, str]]]:
    """The archive with an image of each kind, two kinds in one shard, and what their rows are to say."""
    root = tmp_path_factory.mktemp("poisoned") / "archive"
    shutil.copytree(archive, root)
    paths = sorted(root.rglob("*.jpg"))
    slow = explain_timeout(1.0)
    expected = {}
    for place, kind in ((10, "crash"), (20, "kill"), (70, "many scans"), (100, "sleep"), (199, "once:")):
        sound = paths[place].read_bytes()
        paths[place].write_bytes(
            many_scans((8000, 8000), 50) if kind == "many scans" else poison(sound, kind)
        )
        answers = {"crash": ("corrupt", CRASHED), "kill": ("corrupt", CRASHED), "once:": ("ok", None)}
        expected[str(paths[place])] = answers.get(kind, ("timeout", slow))
    return root, expected


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_ends_its_worker_is_a_row_and_all_others_are_scored(
    form: str,
    cli: Cli,
    poisoned: tuple[Path, dict[str, tuple[str, str]]],
    small_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """Crash, a kill for memory and a hang are a hooked decoder's; the many scans are a real image."""
    root, expected = poisoned
    hook = write_hook(tmp_path / "hook")
    command = ("score", root, "--out", tmp_path / "out", "--checkpoint", small_checkpoint, "--layout", LAYOUT)
    done = cli(
        *command,
        "--decode-timeout-s",
        1,
        "--json",
        script=f"import maskbatch\n{FORMS[form]}",
        PYTHONPATH=f"{hook}:{Path(__file__).parents[1]}",
        POISON_ONCE=str(tmp_path / "once"),
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    table = table_of(tmp_path / "out")
    rows = {row["uri"].removeprefix("file://"): row for row in table.to_pylist()}
    assert {uri: (rows[uri]["status"], rows[uri]["error"]) for uri in expected} == expected
    assert all(rows[uri]["sha256"] for uri in expected)
    statuses = json.loads(done.stdout)["statuses"]
    assert statuses == {"ok": 192, "corrupt": 2, "timeout": 2, "truncated": 2, "unsupported": 2}
    assert (tmp_path / "once").exists()
