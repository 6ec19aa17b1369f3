"""The tabs of a run: its report, the review of its doubtful images, and what people said so far."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import gradio as gr
import pandas as pd

from maskbatch.errors import MaskbatchError, UsageError
from maskbatch.progress import say
from maskbatch.review import corrections
from maskbatch.runs.committed import CommittedRun, open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.runs.versions import find_latest
from maskbatch.stores.files import Location, explain, locate_folder
from maskbatch.stores.options import StorageOptions
from maskbatch.ui.judgements import Judgements
from maskbatch.ui.prefetch import Pictures
from maskbatch.ui.rendering import PLAIN, data_url, rendered, text
from maskbatch.ui.reports import Reports
from maskbatch.ui.session import SHOWS, Filters, Queue, Session, camera_of

CSS = text("review.css")
NAME_LENGTH = 60
TAB = re.compile(r"[\d-]{1,64}", re.ASCII)
"""What the page calls its browser's tab."""
NAME_FIRST = "Your name first, above: it stands beside every judgement."


@dataclass(frozen=True, slots=True)
class Reviewing:
    """A run as the browser sees it."""

    one: CommittedRun
    reports: Reports
    queue: Queue

    @classmethod
    @contextmanager
    def open(cls, run: str, corrections_to: str | None, options: StorageOptions) -> Iterator["Reviewing"]:
        """The finished run named `run`; what is judged goes into it, or elsewhere. Raises UsageError."""
        found = RunDir.at(run, options)
        one, newest = open_committed(found), find_latest(found)
        if str(newest.path) != str(found.path):
            say(f"{found.path} is superseded by {newest.path}; to review that one, give --run {newest.path}")
        other = locate_folder(corrections_to, options) if corrections_to else None
        place = other or found.corrections
        _try_writing(place)
        with TemporaryDirectory(prefix="maskbatch-report-", ignore_cleanup_errors=True) as own:
            reports = Reports(found, other, Path(own), options)
            rows = reports.queue.to_pylist()
            if not rows:
                raise UsageError(
                    f"{run}: no image of it was scored, so none can be judged; look at its report"
                )
            judgements = Judgements(rows, place, corrections.list_folders(found, one.settings.replaces))
            judgements.refresh()
            pictures = Pictures(one, rows, options)
            if error := pictures.get(0).error:
                remedy = "what cannot be seen is not judged; put the archive where it was"
                say(f"Warning: {rows[0]['uri']} cannot be shown ({error}); {remedy}")
            yield cls(one, reports, Queue(rows, judgements, pictures))


def _try_writing(place: Location) -> None:
    """Raises UsageError where nothing can be written to a local folder; a store says so when it is asked."""
    if not isinstance(place, Path):
        return
    if place.exists() and not place.is_dir():
        raise UsageError(f"{place} is a file, not a folder; name another one with --corrections DIR")
    try:
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        remedy = "give access, or another folder with --corrections DIR"
        raise UsageError(f"{place}: nothing can be written there ({explain(error)}); {remedy}") from error


def tabs(run: Reviewing) -> None:
    """The components; to be called inside of gr.Tabs."""
    with gr.Tab("Report"):
        frame = '<iframe title="Report" sandbox="allow-same-origin"></iframe>'
        report = gr.HTML("", html_template=frame, elem_id="report", js_on_load=text("report.js"), **PLAIN)
        report.opened(run.reports.html, outputs=report, show_progress="hidden")
        with gr.Row():
            again = gr.Button("Make it anew, with what was judged since", size="sm", elem_id="again")
        again.click(lambda: _again(run.reports), outputs=report)
    with gr.Tab("Review"):
        card = gr.HTML("", elem_id="review", js_on_load=text("review.js"), **PLAIN)

        def answered(event: gr.EventData, request: gr.Request) -> str:
            return respond(run, _message(event), request.username)

        def held(event: gr.EventData) -> None:
            run.queue.session(_message(event)["tab"])

        card.answer(
            answered, outputs=card, show_progress="hidden", trigger_mode="multiple", concurrency_limit=None
        )
        card.held(held, show_progress="hidden", trigger_mode="multiple", concurrency_limit=None)
    with gr.Tab("Corrections") as said:
        table = gr.HTML("", elem_id="corrections", **PLAIN)
        said.select(lambda: said_so_far(run), outputs=table, show_progress="hidden")


def _again(reports: Reports) -> str:
    try:
        gr.Info(f"Made anew {reports.again()}.")
    except MaskbatchError as error:
        raise gr.Error(str(error)) from error
    return reports.html()


def _message(event: gr.EventData) -> dict[str, Any]:
    """What the page sent. Raises gr.Error for what it never sends."""
    message = (event._data or {}).get("message")
    if isinstance(message, dict) and TAB.fullmatch(str(message.get("tab", ""))):
        return message
    raise gr.Error("The page is out of date; load it again.", print_exception=False)


def respond(run: Reviewing, message: Mapping[str, Any], login: str | None) -> str:
    """Do what a tab asks for, and show what comes next; `login` is who is logged in, if one must be."""
    queue = run.queue
    session = queue.session(message["tab"])
    by = " ".join(str(login or message.get("name", "")).split())[:NAME_LENGTH]
    with session.lock:
        label, position = message.get("label"), message.get("position")
        match message.get("what"):
            case "narrow":
                session.narrow(Filters(*(str(message.get(name, "")) for name in ("show", "camera", "day"))))
            case "undo":
                session.undo(position)
            case "judge" | "skip" if not by:
                session.notice = NAME_FIRST
            case "judge" if label in run.one.meaning.classes:
                session.answer(position, label, by)
            case "skip":
                session.answer(position, None, by)
            case _:
                session.show()
        return _card(run, session, by, login)


def _card(run: Reviewing, session: Session, by: str, login: str | None) -> str:
    queue, position, shown = run.queue, session.position, session.picture()
    row = queue.rows[position] if position is not None else None
    return rendered(
        "card.html",
        row=row,
        unsure=row is not None and row["confidence"] < run.one.card["review_threshold"],
        shown=shown,
        picture=data_url(shown.jpeg) if shown.jpeg else None,
        camera=camera_of(row) if row else None,
        said=queue.judgements.said(position) if position is not None else {},
        session=session,
        notice=session.notice or queue.trouble,
        progress=queue.progress(),
        classes=run.one.meaning.classes,
        filters=session.filters,
        shows=SHOWS,
        cameras=queue.cameras,
        days=queue.days,
        by=by,
        login=login,
        name_length=NAME_LENGTH,
    )


def said_so_far(run: Reviewing) -> str:
    """All judgements until now: by whom, against what the classifier said, and where people differ."""
    run.queue.catch_up()
    words = run.queue.judgements.last_words()
    labels = words.dropna(subset="label")
    disputed = corrections.find_disputes(words)
    disputes = {uri: rows.to_dict("records") for uri, rows in disputed.groupby("uri")}
    images = labels[~labels["uri"].isin(disputes)].drop_duplicates(corrections.IMAGE)
    counts = pd.crosstab(images["was"], images["label"])
    classes = run.one.meaning.classes
    counts = counts.reindex(index=classes, columns=classes, fill_value=0)
    by = words.groupby("by").agg(judged=("label", "count"), words=("label", "size"), last=("at", "max"))
    return rendered(
        "corrections.html",
        folder=str(run.queue.judgements.folder),
        trouble=run.queue.trouble,
        reviewers=[
            {
                "by": name,
                "judged": one["judged"],
                "skipped": one["words"] - one["judged"],
                "last": one["last"],
            }
            for name, one in by.iterrows()
        ],
        classes=classes,
        table=counts.to_dict("index"),
        num_agreed=len(images),
        disputes=disputes,
    )
