"""Entry point of ``python -m sparsification``."""

import sys

from sparsification.cli.main import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m sparsification"))
