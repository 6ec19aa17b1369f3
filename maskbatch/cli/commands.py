"""The commands of maskbatch, a function each; libraries load when a command needs them.

Exit codes: 0 done; 1 the run failed and can be resumed, verify found a difference, or predict could not
score an image; 2 bad usage; 3 committed, but more images failed than --max-error-rate allows; 4 an alert
fired; 5 another live run holds OUT; 130 Ctrl-C.
"""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from maskbatch.cli import flags
from maskbatch.cli.program import run_program
from maskbatch.cli.settings import FILES, HERE, JOB, PLAN, REPORT, SCORE, VIEW, Settings, takes
from maskbatch.config import JobConfig, PlanConfig, ReportConfig, ScoreConfig, make_config
from maskbatch.errors import DONE, FAILED, UsageError
from maskbatch.progress import say
from maskbatch.stores.options import NO_OPTIONS
from maskbatch.visible import show

app = typer.Typer(
    name="maskbatch",
    help="Score an archive of camera snapshots for mask compliance, every image accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point of `maskbatch`."""
    run_program(app, "maskbatch COMMAND --help")


def _print_version(asked: bool) -> None:
    if asked:
        import maskbatch

        print(maskbatch.__version__)
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Score an archive of camera snapshots for mask compliance, every image accounted for."""


@app.command()
@takes(*PLAN)
def plan(
    archives: flags.Archives,
    values: Settings,
    out: Annotated[str | None, Option(help="Run directory to write the plan to.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="List, print what was found, write nothing.")] = False,
    fresh: flags.Fresh = False,
    options: flags.Options = NO_OPTIONS,
    as_json: flags.Json = False,
) -> None:
    """List and number the images. Opens none; `score` goes on from there."""
    from maskbatch.cli import terminal
    from maskbatch.runner import plan_archive

    if out is None and not dry_run:
        raise UsageError("--out OUT is missing; name a run directory, or give --dry-run to write nothing")
    target = None if dry_run else out
    listing = plan_archive(_plan_config(archives, values), target, options=options, fresh=fresh).as_dict()
    if as_json:
        print(json.dumps({"out": out, "listing": listing}))
        return
    terminal.print_listing(listing, terminal.stdout_console())
    if not dry_run:
        again = shlex.join(["maskbatch", "score", *archives, "--out", str(out)])
        say(f"Next: {again}, with the same flags.")


@app.command()
@takes(*PLAN, "checkpoint", *VIEW, "decoder", "dtype", "batch_size")
def estimate(
    archives: flags.Archives,
    values: Settings,
    cluster: flags.ClusterFile = None,
    gpu_rate: flags.GpuRate = None,
    price: flags.Price = None,
    options: flags.Options = NO_OPTIONS,
    as_json: flags.Json = False,
    verbose: flags.Verbose = False,
) -> None:
    """Predict time and cost of a run. Scores a random sample here; makes no run."""
    from maskbatch.cli import terminal
    from maskbatch.estimate.cost import describe_estimate, estimate_run

    made = estimate_run(
        _plan_config(archives, values),
        make_config(ScoreConfig, values),
        make_config(JobConfig, values),
        cluster=cluster,
        gpu_rate=gpu_rate,
        prices=price or (),
        checkpoint=values.get("checkpoint"),
        detector=values.get("detector"),
        options=options,
        verbose=verbose,
    )
    if as_json:
        print(json.dumps(made.as_dict()))
    else:
        terminal.print_listing(made.calibration.listing.as_dict(), terminal.stdout_console())
        show(*describe_estimate(made))


@app.command()
@takes(*PLAN, *FILES, *SCORE, *JOB)
def score(
    archives: flags.Archives,
    out: flags.Out,
    values: Settings,
    reuse: flags.Reuse = None,
    fresh: flags.Fresh = False,
    options: flags.Options = NO_OPTIONS,
    as_json: flags.Json = False,
    verbose: flags.Verbose = False,
) -> int:
    """Score an archive and report it. The same command resumes a stopped run."""
    from maskbatch.runner import score_archive

    result = score_archive(
        _plan_config(archives, values),
        out,
        score=make_config(ScoreConfig, values),
        job=make_config(JobConfig, values),
        checkpoint=values.get("checkpoint"),
        detector=values.get("detector"),
        options=options,
        reuse=reuse or (),
        fresh=fresh,
        verbose=verbose,
    )
    if as_json:
        print(json.dumps(result.as_dict()))
    else:
        from maskbatch.cli import terminal

        terminal.print_listing(result.listing.as_dict(), terminal.stdout_console())
        terminal.print_report(result.report, terminal.stdout_console())
    _say_result(result)
    return int(result.success.exit_code)


@app.command()
@takes(*REPORT, toml=False)
def report(
    runs: Annotated[list[str], Argument(metavar="RUN...", help="Finished run directories.")],
    values: Settings,
    out: Annotated[str | None, Option(help="Folder of the report; needed for several runs.")] = None,
    latest: flags.Latest = False,
    options: flags.Options = NO_OPTIONS,
    as_json: flags.Json = False,
) -> int:
    """Report one finished run again, or several."""
    from maskbatch.cli import terminal
    from maskbatch.report.make import report_runs

    made = report_runs(runs, out, make_config(ReportConfig, values), latest=latest, options=options)
    if as_json:
        shown = {name: made.values[name] for name in ("judged", "alerts")}
        print(json.dumps({"out": str(made.folder), "overall": made.overall, **shown}))
    else:
        terminal.print_report(made, terminal.stdout_console())
    say(f"Report: {made.folder}/report.html")
    return made.exit_code


@app.command()
@takes(toml=False)
def status(
    out: Annotated[str, Argument(metavar="OUT", help="A run directory, from whatever machine.")],
    options: flags.Options = NO_OPTIONS,
    as_json: flags.Json = False,
) -> None:
    """Show where a run stands. Planned, running, interrupted or committed; also while it runs."""
    from maskbatch.runs.directory import RunDir
    from maskbatch.runs.status import describe_status, read_status

    found = read_status(RunDir.at(out, options))
    if as_json:
        print(json.dumps(asdict(found), default=str))
    else:
        show(*describe_status(found))


@app.command()
@takes(toml=False)
def compare(
    first: flags.Run,
    second: Annotated[str, Argument(metavar="RUN", help="The one it is held against.")],
    latest: flags.Latest = False,
    options: flags.Options = NO_OPTIONS,
    as_json: flags.Json = False,
) -> None:
    """Compare two runs. Two checkpoints on the same images, or two periods; with a test."""
    from maskbatch.cli import terminal
    from maskbatch.report.compare import compare_runs

    comparison = compare_runs(first, second, latest=latest, options=options)
    if as_json:
        print(json.dumps(comparison.as_dict()))
    else:
        terminal.print_comparison(comparison, terminal.stdout_console())


@app.command()
@takes(toml=False)
def verify(
    out: Annotated[str, Argument(metavar="OUT", help="A finished run directory.")],
    sample: flags.Sample = 200,
    seed: Annotated[int | None, Option(help="Draw the sample of an earlier check again.")] = None,
    latest: flags.Latest = False,
    checkpoint: Annotated[str | None, Option(help="Where the run's checkpoint lies now.")] = None,
    detector: Annotated[str | None, Option(help="Where the run's detector lies now.")] = None,
    options: flags.Options = NO_OPTIONS,
    as_json: flags.Json = False,
) -> int:
    """Check a finished run. Files, counts, ids, and a random sample scored again."""
    from maskbatch.verify.files import verify_run

    result = verify_run(
        out,
        sample=sample,
        seed=seed,
        latest=latest,
        checkpoint=checkpoint,
        detector=detector,
        options=options,
    )
    if as_json:
        print(json.dumps({"out": out, **result.as_dict()}))
    else:
        show(*result.differences, result)
        if result.num_differences > len(result.differences):
            say(f"The first {len(result.differences)} differences are shown.")
    return DONE if result.verified else FAILED


@app.command()
@takes(
    *HERE,
    *FILES,
    "request_timeout_s",
    "image_timeout_s",
    "decode_timeout_s",
    "zip_encoding",
    toml=False,
)
def predict(
    images: flags.Images,
    values: Settings,
    show: flags.Show = None,
    allow_prefix: flags.AllowPrefix = None,
    options: flags.Options = NO_OPTIONS,
    as_json: flags.Json = False,
) -> int:
    """Classify single images here, or the faces in them. Makes no run."""
    from maskbatch.cli import terminal
    from maskbatch.predict import annotate
    from maskbatch.predict.images import predict_images

    config = make_config(ScoreConfig, values)
    if show:
        annotate.check_sheet_path(show, images)
    predictions = predict_images(
        images,
        config,
        make_config(JobConfig, values),
        checkpoint=values.get("checkpoint"),
        detector=values.get("detector"),
        allow_prefix=allow_prefix or (),
        options=options,
        box_px=annotate.choose_box_px(config.view) if show else None,
        zip_encoding=values.get("zip_encoding"),
    )
    found = predictions.as_dict()
    if as_json:
        print(json.dumps(found))
    else:
        terminal.print_predictions(found, terminal.stdout_console())
    if show:
        annotate.write_sheet(show, predictions.images)
        say(f"Pictures: {show}")
    num_failed = sum(image["status"] != "ok" for image in found["images"])
    if num_failed:
        say(f"{num_failed:,} of {len(images):,} images could not be scored; each says why.")
    return FAILED if num_failed else DONE


@app.command()
@takes("checkpoint", *VIEW, toml=False)
def ui(
    values: Settings,
    run: flags.ReviewedRun = None,
    corrections: flags.Corrections = None,
    host: flags.Host = "127.0.0.1",
    port: flags.Port = None,
    open_browser: Annotated[bool, Option("--open", help="Open the page in a browser.")] = False,
    options: flags.Options = NO_OPTIONS,
) -> None:
    """Open a page in the browser. Try the model on a picture; judge doubtful images of a run."""
    from maskbatch.ui.start import serve_page

    serve_page(
        values=values,
        run=run,
        corrections=corrections,
        host=host,
        port=port,
        open_browser=open_browser,
        options=options,
    )


@app.command()
@takes(*VIEW, "alert_below", "alert_by")
def nightly(
    archives: flags.Archives,
    base: flags.Base,
    values: Settings,
    date: Annotated[str | None, Option(help="The local day to report [yesterday].")] = None,
    since: Annotated[str | None, Option(help="Report every night from this day to yesterday.")] = None,
    options: flags.Options = NO_OPTIONS,
    as_json: flags.Json = False,
) -> int:
    """Score and report yesterday. Compares it with the nights before; --config has layout and time zone."""
    from maskbatch.schedule.nightly import choose_nights, report_nights
    from maskbatch.schedule.nights import Schedule

    schedule = Schedule.of(archives, base, values, options)
    nights = report_nights(schedule, *choose_nights(schedule, date, since))
    if as_json:
        print(json.dumps(nights))
    return int(nights["exit_code"])


@app.command()
@takes(*VIEW)
def audit(
    archives: flags.Archives,
    base: flags.Base,
    month: Annotated[str, Option(help="The local month, such as 2026-10; it must be over.")],
    values: Settings,
    sample: flags.Sample = 200,
    bundle: Annotated[str | None, Option(help="Where the zip to keep goes [beside the run].")] = None,
    fresh: flags.Fresh = False,
    options: flags.Options = NO_OPTIONS,
    as_json: flags.Json = False,
) -> int:
    """Score, report, verify and bundle a month. --config has layout and time zone."""
    from maskbatch.schedule.audit import audit_month
    from maskbatch.schedule.nights import Schedule

    schedule = Schedule.of(archives, base, values, options)
    found = audit_month(schedule, month, sample=sample, bundle=bundle, fresh=fresh)
    if as_json:
        print(json.dumps(found))
    return int(found["exit_code"])


@app.command()
@takes("view", toml=False)
def demo(
    values: Settings,
    out: Annotated[Path, Option(help="Folder for the drawn archive and its run.")] = Path("maskbatch-demo"),
    images: flags.DemoImages = None,
    as_json: flags.Json = False,
    verbose: flags.Verbose = False,
) -> int:
    """Draw a month, score it, compare. Four cameras with a known truth; --view scene: a week of lobbies."""
    from maskbatch.cli import terminal
    from maskbatch.demo.run import run_demo

    view = make_config(ScoreConfig, values).view
    result, comparison = run_demo(out, images, view=view, verbose=verbose)
    if as_json:
        print(json.dumps({**result.as_dict(), "truth": comparison.as_dict()}))
    else:
        terminal.print_report(result.report, terminal.stdout_console())
        comparison.print(terminal.stdout_console(), result.report.overall)
    _say_result(result)
    say(f"See it, and judge what is doubtful: maskbatch ui --run {result.run.path}")
    return int(result.success.exit_code)


def _plan_config(archives: list[str], values: Settings) -> PlanConfig:
    return make_config(PlanConfig, {**values, "archives": archives})


def _say_result(result: Any) -> None:
    """What to know of a scored run, and where it lies."""
    from maskbatch.runs.versions import choose_versions

    path = result.run.path
    if not result.rescored:
        say(f"{path} was finished before; nothing was scored again. What came since: add --reuse {path}.")
        choose_versions([result.run], take_latest=False)  # which says that there is a newer one
    if why := result.explain_code():
        say(why)
    say(f"Rows: {path}/scores   Report: {path}/report/report.html   Again: maskbatch report {path}")
