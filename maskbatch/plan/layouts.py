"""How the paths of an archive follow its layouts, and why some do not."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from maskbatch.archives.entries import Entry
from maskbatch.config import PlanConfig
from maskbatch.errors import UsageError
from maskbatch.layout import Parsed, Template, parse_hive
from maskbatch.progress import say

LEAST_JUDGED = 20
"""Fewer images refuse no layout, unless none of them fits."""
MAX_MISFITS = 0.05
"""Share of images that may fit no layout."""
EARLY = 10_000
"""After so many images we say that most of them fit no layout. The first folder may be an odd one, so that
nothing is refused before the end."""
SAMPLE = 100
SWAPPED, LEAST_SWAPPED = "are %d and %m swapped?", 0.25
"""Of a month, swapped days and months leave 61 % that are no dates; fewer of its first half."""
LEAST_DIGITS = 6
"""Of a date."""
NO_TIME = "do the names have no time? Without {captured_at:...}, as '{site}/{camera}/*', EXIF's counts."
REMEDY = (
    "correct it, add another --layout for them, leave them out with --exclude-path, "
    "or give --allow-unknown-times"
)


def is_refused(num_bad: int, num_judged: int) -> bool:
    """Whether so many of the judged images are too many to plan them without a word."""
    return num_judged >= LEAST_JUDGED and num_bad > MAX_MISFITS * num_judged


def is_judged(entry: Entry) -> bool:
    """Whether the entry's path has something to say: no manifest says both camera and time."""
    return entry.camera is None or entry.time is None


@dataclass(slots=True)
class Layouts:
    """The templates of a plan, and how the images listed so far follow them."""

    templates: list[Template]
    num_judged: int = 0
    """Images; not those of which a manifest says camera and time."""
    num_fit: int = 0
    misfits: list[str] = field(default_factory=list)
    """Paths that do not fit, the first SAMPLE."""

    @classmethod
    def of(cls, config: PlanConfig) -> "Layouts":
        return cls([Template(text) for text in config.layout])

    def parse(self, entry: Entry) -> tuple[Parsed | None, Template | None]:
        """What the entry's path says, and the template that it follows; for a member, its path inside first.

        The first template whose text matches and that gives a date; or else the first whose text matches. So
        a wrong date is no less wrong where a later template, without a time, takes every name.
        """
        if not self.templates:
            return parse_hive(entry.relative), None
        found, by = None, None
        for template in self.templates:
            for path in (entry.inner, entry.relative):
                parsed = template.parse(path) if path else None
                if parsed and (parsed.time or not (found or template.has_time)):
                    return self._judge(entry, parsed, template, fits=True)
                if parsed and found is None:
                    found, by = parsed, template
        return self._judge(entry, found, by, fits=False)

    def _judge(
        self, entry: Entry, parsed: Parsed | None, template: Template | None, *, fits: bool
    ) -> tuple[Parsed | None, Template | None]:
        if is_judged(entry):
            self.num_judged += 1
            self.num_fit += fits
            if not fits and len(self.misfits) < SAMPLE:
                self.misfits.append(entry.inner or entry.relative)
            if self.num_judged == EARLY and self.num_fit < EARLY / 2:
                say(f"plan: so far {self._describe_misfits()} {self._find_cause()}")
        return parsed, template

    def check(self, config: PlanConfig, where: str) -> None:
        """Raises UsageError where too many images fit no layout."""
        if config.allow_unknown_times or not self.templates:
            return
        num_misfits = self.num_judged - self.num_fit
        if not is_refused(num_misfits, self.num_judged) and (self.num_fit or not self.num_judged):
            return
        message = f"{self._describe_misfits()} {self._find_cause()}; {REMEDY}; ARCHIVE is {where}"
        if len(config.archives) > 3:
            message += ", and where a shell has expanded a pattern, quote it: a lone file's path is its name"
        raise UsageError(message)

    def _describe_misfits(self) -> str:
        share = 100 * (1 - self.num_fit / self.num_judged)
        percent = f"{share:.0f}" if share >= 10 else f"{share:.1f}"
        many = len(self.templates) > 1
        which = "" if many else f" {self.templates[0].text}"
        fit = f"fit none of the {len(self.templates)} layouts" if many else "do not fit"
        return f"--layout{which}: {percent} % of {self.num_judged:,} images {fit}:"

    def _find_cause(self) -> str:
        """The likely cause, and how far an example goes."""
        may_swap = self.num_fit < self.num_judged * (1 - LEAST_SWAPPED)
        likely = [_find_likely(template, self.misfits, may_swap=may_swap) for template in self.templates]
        cause, example, num_explained = max(likely, key=lambda found: found[2])
        if 2 * num_explained < len(self.misfits):
            cause, example = "", self.misfits[0]
        nearest = min(self.templates, key=lambda template: len(template.follow(example)[2]))
        gives = f"the first, '{example}', gives {nearest.explain(example)}"
        return f"{cause} {gives[0].upper()}{gives[1:]}" if cause else gives


def _find_likely(template: Template, paths: Sequence[str], *, may_swap: bool) -> tuple[str, str, int]:
    """A question that names the likely cause, the first path that it explains, and how many it does."""
    explained = Counter[str]()
    examples: dict[str, str] = {}
    texts = [*([(SWAPPED, _swap(template.text))] if may_swap else []), *_vary(template.text)]
    variants = [(cause, made) for cause, text in texts if (made := _make(text))]
    for path in paths:
        causes = dict.fromkeys(cause for cause, variant in variants if _fits(variant, path))
        for cause in causes or _name_time(template, path):
            explained[cause] += 1
            examples.setdefault(cause, path)
    cause = max(explained, key=lambda cause: explained[cause], default="")
    return cause, examples.get(cause, paths[0]), explained[cause]


def _swap(text: str) -> str:
    return re.sub("(%-?)([dm])", lambda part: part[1] + {"d": "m", "m": "d"}[part[2]], text)


def _vary(text: str) -> Iterator[tuple[str, str]]:
    """Mistakes that people make, as questions, with the template that would be right."""
    stem, dot, extension = text.rpartition(".")
    if dot and extension.isalnum():
        yield f"do they end otherwise than in .{extension}?", f"{stem}.*"
    folder, slash, name = text.rpartition("/")
    yield "do the paths have a folder more?", f"*/{text}"
    yield "do the paths have a folder more?", f"{folder}{slash}*/{name}"
    yield "do the paths have more folders?", f"**/{text}"
    less, cause = text.partition("/")[2], "do the paths have a folder less?"
    while less:
        yield cause, less
        less, cause = less.partition("/")[2], "do the paths have fewer folders?"


def _make(text: str) -> Template | None:
    try:
        return Template(text)
    except UsageError:
        return None


def _fits(template: Template, path: str) -> bool:
    parsed = template.parse(path)
    return parsed is not None and (parsed.time is not None or not template.has_time)


def _name_time(template: Template, path: str) -> list[str]:
    """The cause where the path goes astray at the time."""
    count, said, rest = template.follow(path)
    fields = [token["field"] for token in template.tokens]
    stops_there = fields[count : count + 1] == ["captured_at"]
    more_digits = count and fields[count - 1] == "captured_at" and rest[:1].isdecimal()
    if not stops_there and not more_digits:
        return []
    texts = (rest, *(text for name, text in said.items() if name not in ("site", "camera")))
    if sum(map(str.isdecimal, "".join(texts))) < LEAST_DIGITS:
        return [NO_TIME]
    token = template.tokens[count if stops_there else count - 1]
    return [f"does the time have other digits or separators than {token[0]}?"]
