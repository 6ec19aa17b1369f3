"""The run directory OUT: its names, how a file in it is made whole, and what run.json holds.

    OUT/run.json   settings, completed step by step until scoring starts, then never changed
    OUT/plan/  staging/  scores/  _SUCCESS  report/  _lease.json

State is derived, never stored: `_SUCCESS` means committed, a live lease running, otherwise
interrupted. No rename of anything visible is relied on.
"""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskbatch.errors import RunFailedError, UsageError

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths of one run."""

    path: Path

    @classmethod
    def at(cls, out: str) -> "RunDir":
        """The run directory named `out`, made or not. Raises UsageError."""
        path = out.removeprefix("file://")
        if "://" in path:
            raise UsageError(f"--out {out}: only a local folder can hold a run yet; give a path")
        folder = Path(path).expanduser().absolute()
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{out}: a file stands there; the folder of a run expected")
        return cls(folder)

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def plan(self) -> Path:
        return self.path / "plan"

    @property
    def staging(self) -> Path:
        return self.path / "staging"

    @property
    def scores(self) -> Path:
        return self.path / "scores"

    @property
    def success(self) -> Path:
        return self.path / "_SUCCESS"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def lease(self) -> Path:
        return self.path / "_lease.json"

    def read_run(self) -> dict[str, Any] | None:
        """run.json, or None where no run was begun. Raises UsageError for one we cannot read."""
        values = self._read_json(self.run_json)
        if values is not None and values.get("format_version") != FORMAT_VERSION:
            version = values.get("format_version")
            message = (
                f"{self.run_json}: run format {version}, {FORMAT_VERSION} expected; "
                "use the maskbatch that made it"
            )
            raise UsageError(message)
        if values is None and self.path.is_dir() and any(self.path.iterdir()):
            others = [
                item.name
                for item in self.path.iterdir()
                if item != self.lease and not item.name.startswith(".")  # `whole` cut off leaves a dot name
            ]
            if others:
                found = sorted(others)[0]
                message = f"{self.path} is not empty and holds no run (found {found!r}); name a new folder"
                raise UsageError(message)
        return values

    def read_success(self) -> dict[str, Any] | None:
        """The commit, or None where the run is not committed."""
        return self._read_json(self.success)

    def _read_json(self, path: Path) -> dict[str, Any] | None:
        try:
            values: dict[str, Any] = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise UsageError(f"{path} is not readable as JSON ({error}); name another --out") from error
        return values

    def clear(self) -> None:
        """Throw away an unfinished run, its lease kept; cut off, it can be called again.

        Raises UsageError, and removes nothing, where something else than a run lies here.
        """
        values = self.read_run()
        if values is None:
            return
        if self.success.exists():
            raise UsageError(f"{self.path} is committed and is never thrown away; name another --out")
        # As if nothing was listed yet: what a clearing that is cut off leaves can be resumed.
        kept = ("format_version", "created_at", "plan", "versions", "replaces")
        write_json(self.run_json, {name: values[name] for name in kept if name in values})
        for folder in (self.staging, self.scores, self.plan, self.report):
            shutil.rmtree(folder, ignore_errors=True)
        self.run_json.unlink(missing_ok=True)


@contextmanager
def whole(path: Path, *, exclusive: bool = False, durable: bool = False) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and otherwise leaves nothing.

    With `durable` its bytes are on the disk before its name is.
    With `exclusive`, FileExistsError where `path` is there already, decided by the file system.
    A full or read-only disk raises RunFailedError.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        if exclusive:
            _create(path, partial)
        else:
            os.replace(partial, path)
    except FileExistsError:
        raise
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        message = f"cannot write {path}: {why}; make room or give access, then run the same command"
        raise RunFailedError(message) from error
    finally:
        partial.unlink(missing_ok=True)


def _create(path: Path, partial: Path) -> None:
    """Make `path` from `partial` where it is not there; FileExistsError where it is."""
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        with path.open("xb") as file:  # a file system without hard links
            file.write(partial.read_bytes())


def write_json(path: Path, values: dict[str, Any], *, exclusive: bool = False) -> None:
    """Write `values` as sorted JSON, whole and on the disk."""
    with whole(path, exclusive=exclusive, durable=True) as partial:
        partial.write_text(json.dumps(values, indent=2, sort_keys=True, default=str) + "\n")
