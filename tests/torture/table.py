"""One promise, how often it was tried, and how often it broke."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """A line of the table that goes to docs/reliability.md."""

    text: str
    tries: int
    broke: int
    found: str = ""
    """What else was measured, in words."""

    def __str__(self) -> str:
        return f"| {self.text} | {self.tries:,} | {self.broke:,} | {self.found} |"


HEADER = "| promise | tries | broke | measured |\n| --- | --- | --- | --- |"
