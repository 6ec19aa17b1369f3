"""Flags of settings, of several commands, and long ones; defaults stand in the dataclasses of `config`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from maskbatch.config import DEMO_IMAGES, DETECT_PX
from maskbatch.schema import CONDITIONS
from maskbatch.stores.options import StorageOptions


@dataclass(frozen=True, slots=True)
class Flag:
    """How a setting of `config` stands on the command line."""

    help: str
    otherwise: str = ""
    """What holds without the flag, where the setting's own default does not say it."""
    metavar: str | None = None


SETTINGS = {
    "layout": Flag(
        "What a path below ARCHIVE says, such as '{site}/{camera}/{captured_at:%Y/%m/%d/%H%M%S}.jpg'; * is "
        "any text in one name. Of several, the first that fits a path counts. Without it, folders like "
        "camera=07/date=2026-10-01/ are recognised."
    ),
    "timezone": Flag("Zone of the archive's local times; or an offset, +02:00.", "UTC", "ZONE|SITE=ZONE"),
    "names_in": Flag("Zone of the times in paths and manifests.", "that of --timezone", "ZONE|SITE=ZONE"),
    "allow_unknown_times": Flag(
        "Plan also where more than 5 % of the images do not fit --layout, or have a time that cannot be read."
    ),
    "since": Flag("First local date or time planned; images of unknown time are kept."),
    "until": Flag("Local date or time before which images are planned."),
    "camera": Flag("Only this camera, or SITE/CAMERA; may be repeated."),
    "margin_days": Flag("List the {date:...} paths of so many days before --since and after --until too."),
    "limit": Flag("At most this many images, in the plan's order."),
    "keep_column": Flag("Column of a manifest or sidecar that travels to scores and report."),
    "exclude_path": Flag(
        "Leave out paths below ARCHIVE that match this pattern; one without / matches any name; repeated.",
        metavar="PATTERN",
    ),
    "include_hidden": Flag("Plan thumbnails, bins, snapshots, dot-files and temporary files too."),
    "skip_unreadable": Flag("Go on where a folder may not be read; count it, and alert."),
    "allow_prefix": Flag("Where uris of a manifest may lie, in addition to its own folder; repeated."),
    "encoding": Flag("Encoding of manifests without a byte order mark, as cp1252.", "UTF-8"),
    "zip_encoding": Flag("Encoding of names in a zip that does not say it, as cp932.", "UTF-8, else cp437"),
    "checkpoint": Flag("A .safetensors checkpoint.", "the packaged one"),
    "view": Flag("face: one face fills the picture; scene: people at any distance, a row for each face."),
    "detect_px": Flag("Longest side of the copy in which faces are looked for.", f"{DETECT_PX} for scenes"),
    "detector": Flag(
        "Finds the faces of --view scene: a .safetensors file, or yunet_n, the quick one.", "centerface"
    ),
    "decoder": Flag("cpu, or gpu: decode baseline JPEGs on the GPUs that score."),
    "dtype": Flag("auto, bfloat16 or float32.", "auto: bfloat16 where the hardware has it"),
    "batch_size": Flag("Images the model sees at a time.", "what suits the device: more on a GPU"),
    "max_bytes": Flag("Largest encoded image, bytes."),
    "max_pixels": Flag("Largest image, pixels."),
    "address": Flag("Ray cluster to join, such as auto.", "local: one started here"),
    "max_workers": Flag("At most so many decoding workers.", "one a core"),
    "max_scorers": Flag("At most so many scoring actors on GPUs.", "as many as fit the GPUs"),
    "gpus_per_worker": Flag("GPUs for one scoring actor, where there are any; 0: use CPUs."),
    "max_error_rate": Flag("Share of failed images above which the exit code is 3."),
    "stall_timeout_s": Flag("Stop, resumable, after so many seconds without progress."),
    "request_timeout_s": Flag("Seconds to wait for one request to a store."),
    "image_timeout_s": Flag("Seconds to wait for one image, all tries together."),
    "decode_timeout_s": Flag("Seconds of processor time to decode one image, or ten times that in all."),
    "max_requests": Flag("Requests in flight in one worker."),
    "exclude": Flag(f"Leave out of the rates: {', '.join(CONDITIONS)}.", metavar="CONDITION,..."),
    "expect": Flag("Snapshots expected of each camera, as 1/5min or 12/h@06-22.", "its own usual pace"),
    "alert_below": Flag("Exit 4 where a whole interval of compliance is below this, as 0.95."),
    "alert_by": Flag("Apply --alert-below to each camera (site, day, hour ...).", "overall"),
    "alert_corrected": Flag("Apply --alert-below to the corrected rate."),
    "thumbnails": Flag("Put pictures of review candidates into the page."),
    "corrections": Flag("Folder of judgements, in addition to RUN/corrections.", metavar="DIR"),
}
"""By the setting's name."""


def _read_options(value: str | StorageOptions) -> StorageOptions:
    return StorageOptions.from_toml(Path(value)) if isinstance(value, str) else value


Archives = Annotated[
    list[str],
    Argument(
        metavar="ARCHIVE...",
        help="Folder, bucket prefix, pattern, tar, zip, Parquet file or manifest; a path or URL.",
    ),
]
Out = Annotated[str, Option(help="Run directory: made if missing, resumed if unfinished.")]
Run = Annotated[str, Argument(metavar="RUN", help="A finished run directory.")]
Base = Annotated[str, Option(help="Folder or URL below which nights and months have their runs.")]
Reuse = Annotated[
    list[str] | None,
    Option(
        metavar="RUN",
        help="A finished run whose rows of unchanged images are carried over; repeated. "
        "With OUT itself, what is new goes to its next version, OUT.v2.",
    ),
]
Sample = Annotated[int, Option(help="Random images that are read and scored again; 0: none.")]
Latest = Annotated[bool, Option("--latest", help="Take the newest finished version, RUN.v2 or later.")]
Fresh = Annotated[bool, Option("--fresh", help="Throw away an unfinished run first.")]
Options = Annotated[
    StorageOptions,
    Option(
        "--storage-options",
        parser=_read_options,
        metavar="FILE",
        help="TOML file of credentials and endpoints, one table per URL prefix.",
        show_default=False,
    ),
]
ClusterFile = Annotated[Path | None, Option(help="Ray cluster launcher file to estimate for [this machine].")]
GpuRate = Annotated[
    float | None, Option(help="Images a second that one GPU there scores [measured where one is].")
]
Price = Annotated[
    list[str] | None,
    Option(
        metavar="TYPE=PER_HOUR",
        help="Price of an hour of a node type or InstanceType of --cluster; repeated.",
    ),
]
Show = Annotated[
    Path | None, Option(metavar="FILE.png", help="Write one PNG of the pictures, their labels and bars.")
]
AllowPrefix = Annotated[
    list[str] | None, Option(help="Where web servers may redirect to, in addition to themselves; repeated.")
]
ReviewedRun = Annotated[
    str | None, Option(metavar="RUN", help="A finished run directory, to see and to review.")
]
Corrections = Annotated[str | None, Option(help="Folder of what reviewers judge [RUN/corrections].")]
Host = Annotated[str, Option(help="Address to listen on; any but this machine's own needs a password.")]
Port = Annotated[int | None, Option(min=1, max=65535, help="Port to listen on [7860, or the next free one].")]
Images = Annotated[
    list[str],
    Argument(
        metavar="IMAGE_OR_URL...",
        help="Paths, URLs, or members as a run names them: tar://NAME::s3://BUCKET/FILE.tar.",
    ),
]
DemoImages = Annotated[
    int | None,
    Option(min=240, help=f"Snapshots drawn [{DEMO_IMAGES['face']}, or {DEMO_IMAGES['scene']} of scenes]."),
]
ConfigFile = Annotated[
    Path | None,
    Option("--config", help="TOML file of settings, named as flags are; flags on the line win."),
]
Json = Annotated[bool, Option("--json", help="Print one JSON summary on stdout.")]
JSON_LOGS = "--json-logs"
JsonLogs = Annotated[bool, Option(JSON_LOGS, help="Each line on stderr is one JSON object; no bars.")]
Verbose = Annotated[bool, Option("--verbose", help="Show Ray's own logs too.")]
