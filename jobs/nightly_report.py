"""`maskbatch nightly` as a module, for schedulers and job servers that run one.

python -m jobs.nightly_report ARGS...
"""

import sys

from maskbatch.cli.commands import main

if __name__ == "__main__":
    sys.argv.insert(1, "nightly")
    main()
