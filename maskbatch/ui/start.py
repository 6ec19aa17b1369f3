"""What has to stand before Gradio is imported: who may connect, and a folder that goes with the process."""

import os
from contextlib import suppress
from tempfile import TemporaryDirectory

from maskbatch.errors import UsageError
from maskbatch.progress import say
from maskbatch.stores.options import StorageOptions
from maskbatch.ui import access


def start(
    *,
    checkpoint: str | None,
    run: str | None,
    corrections: str | None,
    host: str,
    port: int | None,
    open_browser: bool,
    options: StorageOptions,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM, which leave nothing of what was uploaded. Raises UsageError."""
    exposed = not access.is_loopback(host)
    login = access.login(exposed=exposed)
    access.check_address(host, port)
    with (
        suppress(KeyboardInterrupt),
        TemporaryDirectory(prefix="maskbatch-ui-", ignore_cleanup_errors=True) as folder,
    ):
        os.environ["GRADIO_TEMP_DIR"] = folder
        # else Gradio greets itself through a company's proxy, and gives up
        os.environ["no_proxy"] = ",".join(filter(None, (os.environ.get("no_proxy"), host, *access.LOOPBACK)))
        try:
            from maskbatch.ui.app import serve
        except ModuleNotFoundError as error:
            if error.name not in ("gradio", "gradio_client"):
                raise
            raise UsageError("maskbatch ui needs Gradio; install it: pip install 'maskbatch[ui]'") from error
        if exposed:
            say(
                f"Warning: --host {host} lets other machines connect. Names, passwords and pictures travel "
                "unencrypted, and browsers allow no camera, unless a proxy with TLS stands before it."
            )
        serve(
            folder,
            checkpoint=checkpoint,
            run=run,
            corrections=corrections,
            host=host,
            port=port,
            login=login,
            hosts=None if exposed else {*access.LOOPBACK, host},
            open_browser=open_browser,
            options=options,
        )
