"""`python -m jobs.nightly_report ARGS...` is `maskbatch nightly ARGS...`, for schedulers that run modules."""

import sys

from maskbatch.cli.commands import main

if __name__ == "__main__":
    sys.argv.insert(1, "nightly")
    main()
