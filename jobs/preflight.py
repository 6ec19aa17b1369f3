"""Check the packages of the cluster's head, then become the job: `python -m jobs.preflight MODULE ARGS...`

Other versions than the pinned ones would still run, and give other figures. Imports the standard library
alone, since nothing else may be installed.
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
    """Read the versions in requirements.lock of what maskbatch imports: one, or one for each Python."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    names = [_canonical(re.split(r"[^\w.-]", line)[0]) for line in project["dependencies"]]
    pins: dict[str, list[str]] = {name: [] for name in names}
    lock = (root / "requirements.lock").read_text()
    for name, wanted in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE):
        pins.get(_canonical(name), []).append(wanted)
    return {name: versions for name, versions in pins.items() if versions}


def differences(pins: dict[str, list[str]]) -> list[str]:
    """Describe each package whose version here is not a pinned one."""
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
    """Exit with 2 where packages differ, or else with the job's code."""
    if found := differences(pinned()):
        what = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        fix = "install requirements.lock on every node, as cluster.yaml does, or submit with --requirements"
        print(f"preflight: {sys.executable} on the head has {what}; {fix}", file=sys.stderr)
        sys.exit(2)
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
