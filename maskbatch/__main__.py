"""`python -m maskbatch` is the same as `maskbatch`."""

from maskbatch.cli.commands import main

if __name__ == "__main__":
    main()
