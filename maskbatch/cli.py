"""The command line of maskbatch, a function a command.

Exit codes: 0 done; 1 the run failed and can be resumed, verify found a difference, or predict could not
score an image; 2 bad usage; 3 committed, but more images failed than --max-error-rate allows; 4 an alert
fired; 5 another live run holds OUT; 130 Ctrl-C.
"""

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from maskbatch import config, flags
from maskbatch.errors import DONE, FAILED, INTERRUPTED, MaskbatchError, UsageError
from maskbatch.progress import log_json, say
from maskbatch.schema import CONDITIONS
from maskbatch.stores.options import NO_OPTIONS, StorageOptions

app = typer.Typer(
    name="maskbatch",
    help="Score an archive of camera snapshots for mask compliance, every image accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

CONDITION_NAMES = ", ".join(CONDITIONS)


def _values(config_file: Path | None, **flags: Any) -> dict[str, Any]:
    """Flags over the --config file; what neither sets is left to the defaults."""
    toml = config.read_toml(config_file) if config_file else {}
    return {**toml, **{name: value for name, value in flags.items() if value is not None}}


def _plan_config(archives: list[str], values: dict[str, Any]) -> config.PlanConfig:
    from maskbatch.archives import arguments

    names = [arguments.make_absolute(name) for name in archives]
    return config.make_config(config.PlanConfig, {**values, "archives": names})


def _options(path: Path | None) -> StorageOptions:
    return StorageOptions.from_toml(path) if path else NO_OPTIONS


@app.command()
def plan(
    archives: flags.Archives,
    out: Annotated[str | None, typer.Option(help="Run directory to write the plan to.")] = None,
    layout: flags.Layout = None,
    timezone: flags.Timezone = None,
    since: flags.Since = None,
    until: flags.Until = None,
    camera: flags.Camera = None,
    margin_days: flags.MarginDays = None,
    limit: flags.Limit = None,
    keep_column: flags.KeepColumn = None,
    allow_prefix: flags.AllowPrefix = None,
    storage_options: flags.StorageOptionsFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List, print what was found, write nothing.")
    ] = False,
    fresh: flags.Fresh = False,
    config_file: flags.ConfigFile = None,
    as_json: flags.Json = False,
    json_logs: flags.JsonLogs = False,
) -> None:
    """List the archive and number its images, opening none; `score` goes on from there."""
    from maskbatch import runner, terminal

    values = _values(
        config_file,
        layout=layout,
        timezone=timezone,
        since=since,
        until=until,
        camera=camera,
        margin_days=margin_days,
        limit=limit,
        keep_column=keep_column,
        allow_prefix=allow_prefix,
    )
    planned, options = _plan_config(archives, values), _options(storage_options)
    if dry_run:
        listing = runner.dry_run(planned, options=options).as_dict()
    elif out is None:
        raise UsageError("--out OUT is missing; name a run directory, or give --dry-run to write nothing")
    else:
        listing = runner.make_plan(out, planned, options=options, fresh=fresh)["listing"]
    if as_json:
        print(json.dumps({"out": out, "listing": listing}))
    else:
        terminal.print_listing(listing, terminal.stdout_console())
        if not dry_run:
            again = shlex.join(["maskbatch", "score", *archives, "--out", str(out)])
            say(f"Next: {again}, with the same flags.")


@app.command()
def estimate(
    archives: flags.Archives,
    cluster: Annotated[
        Path | None, typer.Option(help="Ray cluster launcher file to estimate for [this machine].")
    ] = None,
    gpu_rate: Annotated[
        float | None, typer.Option(help="Images a second that one GPU there scores [measured where one is].")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE=PER_HOUR", help="Of a node type or InstanceType of --cluster; repeated."),
    ] = None,
    checkpoint: flags.CheckpointFile = None,
    layout: flags.Layout = None,
    timezone: flags.Timezone = None,
    since: flags.Since = None,
    until: flags.Until = None,
    margin_days: flags.MarginDays = None,
    camera: flags.Camera = None,
    limit: flags.Limit = None,
    keep_column: flags.KeepColumn = None,
    allow_prefix: flags.AllowPrefix = None,
    storage_options: flags.StorageOptionsFile = None,
    dtype: flags.Dtype = None,
    batch_size: flags.BatchSize = None,
    config_file: flags.ConfigFile = None,
    as_json: flags.Json = False,
    json_logs: flags.JsonLogs = False,
    verbose: flags.Verbose = False,
) -> None:
    """Say how long a run would take, and cost, from a random sample scored here; no run is made."""
    from maskbatch import terminal
    from maskbatch.estimate.cost import describe_estimate
    from maskbatch.estimate.cost import estimate_run as estimated

    values = _values(
        config_file,
        checkpoint=checkpoint,
        layout=layout,
        timezone=timezone,
        since=since,
        until=until,
        margin_days=margin_days,
        camera=camera,
        limit=limit,
        keep_column=keep_column,
        allow_prefix=allow_prefix,
        dtype=dtype,
        batch_size=batch_size,
    )
    made = estimated(
        _plan_config(archives, values),
        config.make_config(config.ScoreConfig, values),
        config.make_config(config.JobConfig, values),
        cluster=cluster,
        gpu_rate=gpu_rate,
        prices=price or (),
        checkpoint=values.get("checkpoint"),
        options=_options(storage_options),
        verbose=verbose,
    )
    if as_json:
        print(json.dumps(made.as_dict()))
    else:
        terminal.print_listing(made.calibration.listing.as_dict(), terminal.stdout_console())
        print(*describe_estimate(made), sep="\n")


@app.command()
def score(
    archives: flags.Archives,
    out: flags.Out,
    reuse: flags.Reuse = None,
    checkpoint: flags.CheckpointFile = None,
    layout: flags.Layout = None,
    timezone: flags.Timezone = None,
    since: flags.Since = None,
    until: flags.Until = None,
    camera: flags.Camera = None,
    margin_days: flags.MarginDays = None,
    limit: flags.Limit = None,
    keep_column: flags.KeepColumn = None,
    allow_prefix: flags.AllowPrefix = None,
    storage_options: flags.StorageOptionsFile = None,
    dtype: flags.Dtype = None,
    batch_size: flags.BatchSize = None,
    max_bytes: flags.MaxBytes = None,
    max_pixels: flags.MaxPixels = None,
    address: flags.Address = None,
    max_workers: flags.MaxWorkers = None,
    max_scorers: flags.MaxScorers = None,
    gpus_per_worker: flags.GpusPerWorker = None,
    max_error_rate: flags.MaxErrorRate = None,
    stall_timeout_s: flags.StallTimeoutS = None,
    request_timeout_s: flags.RequestTimeoutS = None,
    image_timeout_s: flags.ImageTimeoutS = None,
    max_requests: flags.MaxRequests = None,
    fresh: flags.Fresh = False,
    config_file: flags.ConfigFile = None,
    as_json: flags.Json = False,
    json_logs: flags.JsonLogs = False,
    verbose: flags.Verbose = False,
) -> int:
    """Score the archive into a committed run and its report; the same command resumes a stopped one."""
    from maskbatch import runner

    values = _values(
        config_file,
        checkpoint=checkpoint,
        layout=layout,
        timezone=timezone,
        since=since,
        until=until,
        camera=camera,
        margin_days=margin_days,
        limit=limit,
        keep_column=keep_column,
        allow_prefix=allow_prefix,
        dtype=dtype,
        batch_size=batch_size,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        address=address,
        max_workers=max_workers,
        max_scorers=max_scorers,
        gpus_per_worker=gpus_per_worker,
        max_error_rate=max_error_rate,
        stall_timeout_s=stall_timeout_s,
        request_timeout_s=request_timeout_s,
        image_timeout_s=image_timeout_s,
        max_requests=max_requests,
    )
    result = runner.score(
        out,
        _plan_config(archives, values),
        config.make_config(config.ScoreConfig, values),
        config.make_config(config.JobConfig, values),
        checkpoint=values.get("checkpoint"),
        options=_options(storage_options),
        reuse=reuse or (),
        fresh=fresh,
        verbose=verbose,
    )
    if as_json:
        print(json.dumps(_summary(result)))
    else:
        from maskbatch import terminal

        settings = result.run.read_run() or {}
        terminal.print_listing(settings["listing"], terminal.stdout_console())
        terminal.print_report(result.report, terminal.stdout_console())
    _closing_lines(result)
    return int(result.success["exit_code"])


def _summary(result: Any) -> dict[str, Any]:
    success = result.success
    kept = ("planned", "carried", "statuses", "devices", "timings_s", "exit_code")
    return {
        "out": str(result.run.path),
        "rescored": result.rescored,
        **{name: success[name] for name in kept},
        "overall": result.report.overall,
    }


def _closing_lines(result: Any) -> None:
    from maskbatch.runs import versions

    success, path = result.success, result.run.path
    if not result.rescored:
        say(f"{path} was finished before; nothing was scored again. What came since: add --reuse {path}.")
        versions.choose_versions([result.run], take_latest=False)  # which says that there is a newer one
    if success["exit_code"]:
        failed = 1 - success["statuses"].get("ok", 0) / success["planned"]
        say(
            f"{failed:.1%} of the images failed, more than --max-error-rate {success['max_error_rate']:g} "
            f"allows: look at status and error in {path}/scores."
        )
    say(f"Rows: {path}/scores   Report: {path}/report/report.html   Again: maskbatch report {path}")


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Finished run directories.")],
    out: Annotated[str | None, typer.Option(help="Folder of the report; needed for several runs.")] = None,
    latest: flags.Latest = False,
    exclude: Annotated[
        str | None, typer.Option(metavar="CONDITION,...", help=f"Leave out of the rates: {CONDITION_NAMES}.")
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(help="Snapshots expected of each camera, as 1/5min or 12/h@06-22 [its own usual pace]."),
    ] = None,
    alert_below: flags.AlertBelow = None,
    by: flags.By = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Hold the corrected rate to --alert-below, not the observed.")
    ] = False,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Put pictures of review candidates into the page.")
    ] = False,
    corrections: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of what was judged, beside [RUN/corrections].")
    ] = None,
    storage_options: flags.StorageOptionsFile = None,
    as_json: flags.Json = False,
    json_logs: flags.JsonLogs = False,
) -> int:
    """Make the report of one finished run again, or one report over several."""
    from maskbatch import terminal
    from maskbatch.report.make import report_runs

    settings = config.ReportConfig(
        exclude=tuple(config.split_names(exclude or "")),
        expect=expect,
        alert_below=alert_below,
        alert_by=by if by != "overall" else None,
        alert_corrected=corrected,
        thumbnails=thumbnails,
        corrections=corrections,
    )
    made = report_runs(runs, out, settings, latest=latest, options=_options(storage_options))
    if as_json:
        shown = {name: made.values[name] for name in ("judged", "alerts")}
        print(json.dumps({"out": str(made.folder), "overall": made.overall, **shown}))
    else:
        terminal.print_report(made, terminal.stdout_console())
    say(f"Report: {made.folder}/report.html")
    return made.exit_code


@app.command()
def status(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A run directory, from whatever machine.")],
    storage_options: flags.StorageOptionsFile = None,
    as_json: flags.Json = False,
) -> None:
    """Say where a run stands, also while it goes on: planned, running, interrupted or committed."""
    from dataclasses import asdict

    from maskbatch.runs.directory import RunDir
    from maskbatch.runs.status import describe_status, read_status

    found = read_status(RunDir.at(out, _options(storage_options)))
    if as_json:
        print(json.dumps(asdict(found), default=str))
    else:
        print(*describe_status(found), sep="\n")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A finished run directory.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The one it is held against.")],
    latest: flags.Latest = False,
    storage_options: flags.StorageOptionsFile = None,
    as_json: flags.Json = False,
    json_logs: flags.JsonLogs = False,
) -> None:
    """Show what changed between two checkpoints on the same images, or two periods, with a test."""
    from maskbatch import terminal
    from maskbatch.report.compare import compare_runs

    comparison = compare_runs(first, second, latest=latest, options=_options(storage_options))
    if as_json:
        print(json.dumps(comparison.as_dict()))
    else:
        terminal.print_comparison(comparison, terminal.stdout_console())


@app.command()
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A finished run directory.")],
    sample: Annotated[int, typer.Option(help="Random images that are read and scored again; 0: none.")] = 200,
    seed: Annotated[int | None, typer.Option(help="Draw the sample of an earlier check again.")] = None,
    latest: flags.Latest = False,
    checkpoint: Annotated[str | None, typer.Option(help="Where the run's checkpoint lies now.")] = None,
    storage_options: flags.StorageOptionsFile = None,
    as_json: flags.Json = False,
    json_logs: flags.JsonLogs = False,
) -> int:
    """Check a finished run: files, counts, ids, and a random sample against the archive."""
    from maskbatch.runs.directory import RunDir
    from maskbatch.runs.versions import choose_versions
    from maskbatch.verify.files import verify_run as check

    options = _options(storage_options)
    (run,) = choose_versions([RunDir.at(out, options)], take_latest=latest)
    found = check(run, sample=sample, seed=seed, checkpoint=checkpoint, options=options)
    if as_json:
        print(json.dumps({"out": out, **found.as_dict()}))
    else:
        for line in (*found.differences, found):
            print(line)
        if found.num_differences > len(found.differences):
            say(f"The first {len(found.differences)} differences are shown.")
    return DONE if found.verified else FAILED


@app.command()
def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE_OR_URL...",
            help="Paths, URLs, or members as a run names them: tar://NAME::s3://BUCKET/FILE.tar.",
        ),
    ],
    checkpoint: flags.CheckpointFile = None,
    show: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Write one PNG of the pictures, their labels and bars."),
    ] = None,
    dtype: flags.Dtype = None,
    batch_size: flags.BatchSize = None,
    max_bytes: flags.MaxBytes = None,
    max_pixels: flags.MaxPixels = None,
    allow_prefix: Annotated[
        list[str] | None, typer.Option(help="Where web servers may redirect to, beside themselves; repeated.")
    ] = None,
    storage_options: flags.StorageOptionsFile = None,
    request_timeout_s: flags.RequestTimeoutS = None,
    image_timeout_s: flags.ImageTimeoutS = None,
    as_json: flags.Json = False,
    json_logs: flags.JsonLogs = False,
) -> int:
    """Say what the classifier makes of single images, here and now; no run is made."""
    from maskbatch import terminal
    from maskbatch.predict import annotate
    from maskbatch.predict.images import predict_images, summary

    if show:
        annotate.check_target(show, images)
    values = _values(
        None,
        dtype=dtype,
        batch_size=batch_size,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        request_timeout_s=request_timeout_s,
        image_timeout_s=image_timeout_s,
    )
    predictor, found = predict_images(
        images,
        config.make_config(config.ScoreConfig, values),
        config.make_config(config.JobConfig, values),
        checkpoint=checkpoint,
        allow_prefix=allow_prefix or (),
        options=_options(storage_options),
        box_px=annotate.PICTURE_PX if show else None,
    )
    made = summary(predictor, found)
    if as_json:
        print(json.dumps(made))
    else:
        rows = [{**image, "uri": annotate.printable(image["uri"])} for image in made["images"]]
        terminal.print_predictions({**made, "images": rows}, terminal.stdout_console())
    if show:
        annotate.write_sheet(show, found)
        say(f"Pictures: {show}")
    num_failed = sum(one.prediction.status != "ok" for one in found)
    if num_failed:
        say(f"{num_failed:,} of {len(found):,} images could not be scored; each says why.")
    return FAILED if num_failed else DONE


@app.command()
def ui(
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="A finished run directory, to see and to review.")
    ] = None,
    corrections: Annotated[
        str | None, typer.Option(help="Folder of what reviewers judge [RUN/corrections].")
    ] = None,
    checkpoint: flags.CheckpointFile = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a password.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on [7860, or the next free one].")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    storage_options: flags.StorageOptionsFile = None,
) -> None:
    """Open a page in the browser: try the model on a picture, and review the doubtful ones of a run."""
    from maskbatch.ui.start import start

    start(
        checkpoint=checkpoint,
        run=run,
        corrections=corrections,
        host=host,
        port=port,
        open_browser=open_browser,
        options=_options(storage_options),
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the drawn archive and its run.")] = Path(
        "maskbatch-demo"
    ),
    images: Annotated[
        int, typer.Option(min=240, help="Snapshots drawn, of four cameras over a month.")
    ] = 720,
    as_json: flags.Json = False,
    json_logs: flags.JsonLogs = False,
    verbose: flags.Verbose = False,
) -> int:
    """Draw a month of snapshots of four cameras with a known truth, score it, compare."""
    from maskbatch import terminal
    from maskbatch.demo import truth as demo_module

    result, compared = demo_module.run_demo(out, images, verbose=verbose)
    if as_json:
        print(json.dumps({**_summary(result), "truth": compared.as_dict()}))
    else:
        terminal.print_report(result.report, terminal.stdout_console())
        compared.print(terminal.stdout_console(), result.report.overall)
    _closing_lines(result)
    say(f"See it, and judge what is doubtful: maskbatch ui --run {result.run.path}")
    return int(result.success["exit_code"])


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _store_errors() -> tuple[type[Exception], ...]:
    from maskbatch.stores.files import store_errors

    return store_errors()


def failed(error: Exception, what: str = "maskbatch") -> int:
    """Say in one sentence what a user, a run or a store did wrong; returns the exit code."""
    if isinstance(error, MaskbatchError):
        message, code = str(error), error.exit_code
    else:
        from maskbatch.stores.files import explain

        name = getattr(error, "filename", None)
        where = f"{os.fsdecode(name)}: " if name else ""
        message, code = f"{where}{explain(error)}; check the path and your access to it", FAILED
    say(f"{what}: {message}", "error", exit_code=code)
    return code


def main() -> None:
    """Entry point of `maskbatch`."""
    run(app, "maskbatch COMMAND --help")


def run(program: typer.Typer, usage: str) -> NoReturn:
    """A whole command line: what a user can cause is one sentence and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    if flags.JSON_LOGS in sys.argv:  # not left to the parser, whose own errors are lines too
        log_json()
    try:
        code = program(standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except MaskbatchError as error:
        sys.exit(failed(error))
    except _store_errors() as error:
        sys.exit(failed(error))
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the parser's own usage errors
            text = error.format_message()
            text = text.rstrip(".")
            if not text.startswith("Usage:"):
                text = f"maskbatch: {text}; see {usage}"
            say(text, "error", exit_code=UsageError.exit_code)
            sys.exit(UsageError.exit_code)
        raise
    if code == INTERRUPTED:
        message = "maskbatch: interrupted; what is scored stays if it is a run's; give the same command again"
        say(message, "error", exit_code=INTERRUPTED)
        sys.stdout.flush()
        os._exit(INTERRUPTED)  # a thread that still asks a hung store would hold the process for minutes
    sys.exit(code if isinstance(code, int) else DONE)
