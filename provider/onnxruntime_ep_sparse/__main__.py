"""Command line: ``python -m onnxruntime_ep_sparse explain model.onnx``."""

import argparse
import sys
from pathlib import Path

from onnxruntime_ep_sparse.explain import explain


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnxruntime_ep_sparse", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("explain", help="print which Linear layers of a model the provider takes, and why")
    command.add_argument("model", type=Path, help="an ONNX file")
    model = parser.parse_args(arguments).model
    if not model.is_file():
        print(f"{model} is not a file; an ONNX file is expected", file=sys.stderr)
        return 1
    print(explain(model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
