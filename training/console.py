"""The edge of every training command: a mistake ends in one sentence and its exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from maskbatch.errors import INTERRUPTED, MaskbatchError


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn what a user can cause into `error: ...` on stderr. Raises typer.Exit."""
    try:
        yield
    except MaskbatchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(f"error: cannot use{where}: {error.strerror or error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        print(
            "error: interrupted; a training goes on after its last whole epoch with the same command",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from error
