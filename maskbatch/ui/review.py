"""The tabs of a run: its report, the review of its queue, and the corrections so far."""

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
from maskbatch.ui.gradio_internals import read_message
from maskbatch.ui.judgements import STATES, Judgements
from maskbatch.ui.prefetch import Pictures
from maskbatch.ui.rendering import PLAIN, make_data_url, read_text, render
from maskbatch.ui.reports import Reports
from maskbatch.ui.session import Filters, Queue, Session, name_camera

CSS = read_text("review.css")
NAME_LENGTH = 60
TAB = re.compile(r"[\d-]{1,64}", re.ASCII)
"""What JavaScript calls a browser tab."""
NAME_FIRST = "Enter your name above first: it is saved with every judgement."


@dataclass(frozen=True, slots=True)
class Review:
    """A run under review."""

    run: CommittedRun
    reports: Reports
    queue: Queue

    @property
    def thing(self) -> str:
        """What people judge, in a word."""
        return "face" if self.run.score.view == "scene" else "image"


@contextmanager
def open_review(path: str, corrections_to: str | None, options: StorageOptions) -> Iterator[Review]:
    """Open the finished run at `path`; judgements go into it or to `corrections_to`. Raises UsageError."""
    directory = RunDir.at(path, options)
    run, newest = open_committed(directory), find_latest(directory)
    if str(newest.path) != str(directory.path):
        say(f"{directory.path} is superseded by {newest.path}; to review that one, use --run {newest.path}")
    other = locate_folder(corrections_to, options) if corrections_to else None
    place = other or directory.corrections
    _check_writable(place)
    with TemporaryDirectory(prefix="maskbatch-report-", ignore_cleanup_errors=True) as own:
        reports = Reports(directory, other, Path(own), options)
        rows = reports.queue.to_pylist()
        if not rows:
            what = "face large enough" if run.score.view == "scene" else "scored image"
            raise UsageError(f"{path} has no {what} to judge; see its report")
        judgements = Judgements(rows, place, corrections.list_folders(run))
        judgements.read_new()
        pictures = Pictures(run, rows, options)
        if error := pictures.get(0).error:
            remedy = "you cannot judge what you cannot see, so put the archive back"
            say(f"Warning: {rows[0]['uri']} cannot be shown ({error}); {remedy}")
        yield Review(run, reports, Queue(rows, judgements, pictures))


def _check_writable(place: Location) -> None:
    """Raises UsageError for a local folder that cannot be written; a store is not tried before it is used."""
    if not isinstance(place, Path):
        return
    if place.exists() and not place.is_dir():
        raise UsageError(f"{place} is a file, not a folder; name another one with --corrections DIR")
    try:
        place.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=place).close()
    except OSError as error:
        remedy = "give write access, or name another folder with --corrections DIR"
        raise UsageError(f"{place} cannot be written ({explain(error)}); {remedy}") from error


def build_tabs(review: Review) -> None:
    """Make the components of the tabs, inside of gr.Tabs."""
    quiet: dict[str, Any] = {"show_progress": "hidden"}
    every: dict[str, Any] = {"trigger_mode": "multiple", "concurrency_limit": None, **quiet}
    with gr.Tab("Report"):
        frame = '<iframe title="Report" sandbox="allow-same-origin"></iframe>'
        js = read_text("report.js")
        report = gr.HTML("", html_template=frame, elem_id="report", js_on_load=js, **PLAIN)
        report.opened(review.reports.read_html, outputs=report, **quiet)
        with gr.Row():
            update = gr.Button("Update the report with new judgements", size="sm", elem_id="update")
        update.click(lambda: _update_report(review.reports), outputs=report)
    with gr.Tab("Review"):
        card = gr.HTML("", elem_id="review", js_on_load=read_text("review.js"), **PLAIN)

        def answer(event: gr.EventData, request: gr.Request) -> str:
            return respond(review, _check_message(event), request.username)

        def keep_alive(event: gr.EventData) -> None:
            review.queue.find_session(_check_message(event)["tab"])

        card.answer(answer, outputs=card, **every)
        card.alive(keep_alive, **every)
    with gr.Tab("Corrections") as tab:
        table = gr.HTML("", elem_id="corrections", **PLAIN)
        tab.select(lambda: render_corrections(review), outputs=table, **quiet)


def _update_report(reports: Reports) -> str:
    try:
        gr.Info(f"Report updated {reports.update()}.")
    except MaskbatchError as error:
        raise gr.Error(str(error)) from error
    return reports.read_html()


def _check_message(event: gr.EventData) -> dict[str, Any]:
    """The message of the page. Raises gr.Error for one that the page never sends."""
    message = read_message(event)
    if isinstance(message, dict) and TAB.fullmatch(str(message.get("tab", ""))):
        return message
    raise gr.Error("This page is out of date; load it again.", print_exception=False)


def respond(review: Review, message: Mapping[str, Any], login: str | None) -> str:
    """Do what a tab asks for and return its next card; `login` is the name that somebody logged in with."""
    session = review.queue.find_session(message["tab"])
    by = " ".join(str(login or message.get("name", "")).split())[:NAME_LENGTH]
    with session.lock:
        label, position = message.get("label"), message.get("position")
        match message.get("what"):
            case "filter":
                values = (str(message.get(name, "")) for name in ("show", "camera", "day"))
                session.set_filters(Filters(*values))
            case "undo":
                session.undo(position)
            case "judge" | "skip" if not by:
                session.notice = NAME_FIRST
            case "judge" if label in review.run.meaning.classes:
                session.answer(position, label, by)
            case "skip":
                session.answer(position, None, by)
            case _:
                session.show_image()
        return _render_card(review, session, by, login)


def _render_card(review: Review, session: Session, by: str, login: str | None) -> str:
    queue, position, picture = review.queue, session.position, session.get_picture()
    row = queue.rows[position] if position is not None else None
    return render(
        "card.html",
        row=row,
        unsure=row is not None and row["confidence"] < review.run.card["review_threshold"],
        picture=picture,
        shown=[make_data_url(jpeg) for jpeg in (picture.jpeg, picture.whole) if jpeg],
        thing=review.thing,
        camera=name_camera(row) if row else None,
        labels=queue.judgements.get_labels(position) if position is not None else {},
        session=session,
        queue=queue,
        progress=queue.count_progress(),
        meaning=review.run.meaning,
        states=STATES,
        by=by,
        login=login,
        name_length=NAME_LENGTH,
    )


def render_corrections(review: Review) -> str:
    """All judgements: by reviewer, against the classifier's labels, and where reviewers disagree."""
    queue, classes = review.queue, review.run.meaning.classes
    queue.read_others()
    judgements = queue.judgements.find_last()
    disputed = corrections.find_disputes(judgements)
    disputes = {
        f"{uri}, face {region}" if region else uri: rows.to_dict("records")
        for (uri, _, region), rows in disputed.groupby(corrections.IMAGE)
    }
    labels = judgements.dropna(subset="label")
    of_disputed, of_labels = (
        pd.MultiIndex.from_frame(rows[corrections.IMAGE]) for rows in (disputed, labels)
    )
    agreed = labels[~of_labels.isin(of_disputed)].drop_duplicates(corrections.IMAGE)
    counts = pd.crosstab(agreed["was"], agreed["label"])
    counts = counts.reindex(index=classes, columns=classes, fill_value=0)
    by = judgements.groupby("by", as_index=False)
    reviewers = by.agg(judged=("label", "count"), answers=("label", "size"), last=("at", "max"))
    return render(
        "corrections.html",
        folder=str(queue.judgements.folder),
        thing=review.thing,
        trouble=queue.trouble,
        reviewers=reviewers.to_dict("records"),
        classes=classes,
        counts=counts.to_dict("index"),
        num_agreed=len(agreed),
        disputes=disputes,
    )
