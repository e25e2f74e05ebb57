"""The scripts in examples/ as modules."""

import importlib.util
import sys
from types import ModuleType

from helpers import ROOT


def load_example(name: str) -> ModuleType:
    """Load a script as a module, whose ``main`` a test can call."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # HfArgumentParser resolves annotations through it
    spec.loader.exec_module(module)
    return module
