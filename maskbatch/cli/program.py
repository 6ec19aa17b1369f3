"""The edge of every program: what a user can cause is one sentence and an exit code, never a traceback."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from maskbatch.cli.flags import JSON_LOGS
from maskbatch.cli.repeats import refuse_repeats
from maskbatch.errors import DONE, INTERRUPTED, UsageError
from maskbatch.progress import log_json, say
from maskbatch.visible import accept_any_text


def run_program(program: typer.Typer, usage: str) -> NoReturn:
    """Run a whole command line, and exit."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us ignores it
        signal.signal(signal.SIGINT, _interrupt)
    accept_any_text()
    if JSON_LOGS in sys.argv:  # not left to the parser, whose own errors are lines too
        log_json()
    try:
        command = typer.main.get_command(program)
        refuse_repeats(command, sys.argv[1:])
        code = command(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except typer.Exit as done:
        code = done.exit_code
    except Exception as error:
        code = _tell(error, usage)
    if code == INTERRUPTED:
        message = "a run keeps what is scored; give the same command again"
        say(f"maskbatch: interrupted; {message}", "error", exit_code=INTERRUPTED)
        sys.stdout.flush()
        os._exit(INTERRUPTED)  # a thread that still asks a hung store would hold the process for minutes
    code = code if isinstance(code, int) else DONE
    connection = sys.modules.get("maskbatch.cluster.connection")
    if connection and connection.is_stuck():
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _tell(error: Exception, usage: str) -> int:
    """Say in one sentence what went wrong; the exit code. An error of our own making is raised again."""
    # 0.1 s of libraries that the parser itself need not wait for
    from maskbatch.stores.files import describe_failure, known_errors

    if isinstance(error, known_errors()):
        message, code = describe_failure(error)
        text = f"maskbatch: {message}"
    elif hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the parser's own usage errors
        text, code = error.format_message().rstrip("."), UsageError.exit_code
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help, of many lines
            for line in text.splitlines():
                say(line, "error", exit_code=code)
            return code
        text = f"maskbatch: {text}; see {usage}"
    else:
        raise error
    say(text, "error", exit_code=code)
    return code


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, _stop)
    say("maskbatch: stopping; once more stops it at once")
    raise KeyboardInterrupt


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(INTERRUPTED)
