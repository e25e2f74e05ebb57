"""``python -m sparsification``: the command line."""

import sys

from sparsification.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
