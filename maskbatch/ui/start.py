"""What must happen before Gradio is imported: check who may connect, and make a folder for uploads."""

import os
from collections.abc import Mapping
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

from maskbatch.errors import UsageError
from maskbatch.progress import say
from maskbatch.stores.options import StorageOptions
from maskbatch.ui import access


def serve_page(
    *,
    values: Mapping[str, Any],
    run: str | None,
    corrections: str | None,
    host: str,
    port: int | None,
    open_browser: bool,
    options: StorageOptions,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM, then delete all uploads. Raises UsageError.

    `values`: as those of `run_server`.
    """
    exposed = not access.is_loopback(host)
    names = None if exposed else {*access.LOOPBACK, host}
    login = access.make_login(exposed=exposed)
    listener = access.Listener(host=host, port=port, login=login, names=names)
    access.check_address(host, port)
    uploads = TemporaryDirectory(prefix="maskbatch-ui-", ignore_cleanup_errors=True)
    with suppress(KeyboardInterrupt), uploads as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        # Gradio requests its own page at the start, and gives up if a proxy answers instead
        os.environ["no_proxy"] = ",".join(filter(None, (os.environ.get("no_proxy"), host, *access.LOOPBACK)))
        try:
            from maskbatch.ui.app import run_server
        except ModuleNotFoundError as error:
            if error.name not in ("gradio", "gradio_client"):
                raise
            raise UsageError("maskbatch ui needs Gradio; install it: pip install 'maskbatch[ui]'") from error
        if exposed:
            say(
                f"Warning: --host {host} lets other machines connect. Without a proxy with TLS in front, "
                "names, passwords and pictures travel unencrypted, and browsers block the webcam."
            )
        run_server(folder, listener, options, open_browser, values=values, run=run, corrections=corrections)
