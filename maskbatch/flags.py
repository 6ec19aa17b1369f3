"""The flags that several commands share, each with its one sentence of help."""

from pathlib import Path
from typing import Annotated

import typer

Archives = Annotated[
    list[str],
    typer.Argument(
        metavar="ARCHIVE...",
        help="Folder, bucket prefix, pattern, tar, zip, Parquet file or manifest; a path or URL.",
    ),
]
KeepColumn = Annotated[
    str | None, typer.Option(help="Column of a manifest or sidecar that travels to scores and report.")
]
AllowPrefix = Annotated[
    list[str] | None, typer.Option(help="Where uris of a manifest may lie, beside its own folder; repeated.")
]
StorageOptionsFile = Annotated[
    Path | None,
    typer.Option("--storage-options", help="TOML of credentials and endpoints, a table a URL prefix."),
]
RequestTimeoutS = Annotated[float | None, typer.Option(help="Patience with one request to a store [30].")]
ImageTimeoutS = Annotated[float | None, typer.Option(help="Patience with one image, all tries [120].")]
MaxRequests = Annotated[int | None, typer.Option(help="Requests in flight in one worker [32].")]
Out = Annotated[str, typer.Option(help="Run directory: made if missing, resumed if unfinished.")]
Layout = Annotated[
    str | None,
    typer.Option(
        help="What a path below ARCHIVE says, such as "
        "'{site}/{camera}/{captured_at:%Y/%m/%d/%H%M%S}.jpg'; * is any text in one name. "
        "Without it, folders like camera=07/date=2026-10-01/ are recognised."
    ),
]
Timezone = Annotated[
    list[str] | None, typer.Option(metavar="ZONE|SITE=ZONE", help="Zone of the archive's local times [UTC].")
]
Since = Annotated[str | None, typer.Option(help="First local date or time planned; unknown times are kept.")]
Until = Annotated[str | None, typer.Option(help="Local date or time before which images are planned.")]
Camera = Annotated[list[str] | None, typer.Option(help="Only this camera, or SITE/CAMERA; may be repeated.")]
MarginDays = Annotated[
    int | None, typer.Option(help="Days around --since and --until whose {date:...} is listed too [0].")
]
Limit = Annotated[int | None, typer.Option(help="At most this many images, in the plan's order.")]
Reuse = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUN",
        help="A finished run whose rows of unchanged images are carried over; repeated. "
        "With OUT itself, what is new goes to its next version, OUT.v2.",
    ),
]
Latest = Annotated[
    bool, typer.Option("--latest", help="Take the newest finished version of each run, RUN.v2 or later.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Throw away an unfinished run in OUT first.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file of these flags; flags on the line win.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON summary on stdout.")]
JSON_LOGS = "--json-logs"
JsonLogs = Annotated[bool, typer.Option(JSON_LOGS, help="Each line on stderr is one JSON object; no bars.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Ray's own logs too.")]
CheckpointFile = Annotated[str | None, typer.Option(help="A .safetensors checkpoint [the packaged one].")]
Dtype = Annotated[
    str | None, typer.Option(help="auto, bfloat16 or float32 [auto: bfloat16 where the hardware has it].")
]
BatchSize = Annotated[int | None, typer.Option(help="Images the model sees at a time [32].")]
MaxBytes = Annotated[int | None, typer.Option(help="Largest encoded image, bytes [67108864].")]
MaxPixels = Annotated[int | None, typer.Option(help="Largest image, pixels [89478485].")]
AlertBelow = Annotated[
    float | None, typer.Option(help="Exit 4 where a whole interval of compliance is below this, as 0.95.")
]
By = Annotated[
    str | None, typer.Option(help="Hold each camera (site, day, hour ...) to --alert-below [overall].")
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join, such as auto [local: one started here].")
]
MaxWorkers = Annotated[int | None, typer.Option(help="At most so many decoding workers [one a core].")]
MaxScorers = Annotated[
    int | None, typer.Option(help="At most so many scoring actors on GPUs [as many as fit the GPUs].")
]
GpusPerWorker = Annotated[
    float | None, typer.Option(help="GPUs for one scoring actor, where there are any; 0: use CPUs [1.0].")
]
MaxErrorRate = Annotated[
    float | None, typer.Option(help="Share of failed images above which to exit 3 [0.05].")
]
StallTimeoutS = Annotated[
    float | None, typer.Option(help="Stop, resumable, after so many seconds without progress [600].")
]
