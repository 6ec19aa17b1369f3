"""What drivers left in OUT that were killed: files half written, and a lease that nobody renews."""

from contextlib import suppress
from pathlib import Path

from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import is_live, read_lease
from maskbatch.stores.files import list_names, remove_leftovers, store_errors


def sweep_leftovers(run: RunDir) -> None:
    """Remove leftovers, but nothing of a live driver; a store that grants no deletion keeps them."""
    with suppress(*store_errors()):
        days = (run.scores / day for day in list_names(run.scores)) if isinstance(run.path, Path) else ()
        for folder in (run.plan, run.staging, run.corrections, run.report, *days):
            remove_leftovers(folder)
        remove_leftovers(run.path, of_anyone=(run.success.name, run.run_json.name))
        lease = read_lease(run)
        if run.lease.exists() and not (lease and is_live(lease)):
            run.lease.unlink(missing_ok=True)
