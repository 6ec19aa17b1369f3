"""Print the table of promises. `python -m tests.torture --only kills mutations` runs some of its parts."""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.torture import bombs, kills, mutations, names, poison
from tests.torture.table import HEADER

PARTS = {
    "mutations": mutations.mutate,
    "bombs": bombs.explode,
    "poison": poison.feed,
    "names": names.name,
    "kills": kills.kill,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--mutations", type=int, default=50_000)
    given = parser.parse_args()
    counts = {"kills": given.kills, "mutations": given.mutations}
    print(HEADER, flush=True)
    num_broke = 0
    for part in given.only:
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            for promise in PARTS[part](Path(folder), random.Random(given.seed), counts.get(part, 0)):
                print(promise, flush=True)
                num_broke += promise.broke
    sys.exit(1 if num_broke else 0)


if __name__ == "__main__":
    main()
