"""What a submitted job does first, on the head of the cluster: check its packages, then become the job.

    python -m jobs.preflight jobs.nightly_report ARGS...

It runs where nothing may be installed yet, so it imports the standard library alone. Other versions than
the pinned ones would still run, and give other figures.
"""

import os
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(root: Path = ROOT) -> dict[str, list[str]]:
    """Versions in requirements.lock of each package that maskbatch itself imports; several: one a Python."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pins: dict[str, list[str]] = {
        _canonical(re.split(r"[^\w.-]", line)[0]): [] for line in project["dependencies"]
    }
    lock = (root / "requirements.lock").read_text()
    for name, wanted in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE):
        pins.get(_canonical(name), []).append(wanted)
    return {name: versions for name, versions in pins.items() if versions}


def differences(pins: dict[str, list[str]]) -> list[str]:
    """What is installed here otherwise than pinned, a phrase each."""
    found = []
    for name, wanted in pins.items():
        try:
            here = version(name).partition("+")[0]  # 2.15.0+cu130 is a build of 2.15.0
        except PackageNotFoundError:
            here = "missing"
        if here not in wanted:
            found.append(f"{name} {here} (pinned: {' or '.join(wanted)})")
    return found


def main() -> None:
    """Exit code 2 where the packages differ, else the job's own."""
    if found := differences(pinned()):
        what = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        remedy = (
            "install requirements.lock on every node, as cluster.yaml does, or submit with --requirements"
        )
        print(f"preflight: {sys.executable} on the head has {what}; {remedy}", file=sys.stderr)
        sys.exit(2)
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
