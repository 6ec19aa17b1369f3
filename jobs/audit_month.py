"""`python -m jobs.audit_month ARGS...` is `maskbatch audit ARGS...`, for schedulers that run modules."""

import sys

from maskbatch.cli.commands import main

if __name__ == "__main__":
    sys.argv.insert(1, "audit")
    main()
