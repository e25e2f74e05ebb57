"""The wheel of the provider: one library for all versions of Python. ``build_library.py`` compiles it first."""

import os
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel

if not list((Path(__file__).parent / "onnxruntime_ep_sparse").glob("libonnxruntime_ep_sparse.*")):
    raise SystemExit("the library is missing: run provider/build_library.py first")


class PlatformDistribution(Distribution):
    """Has a library, although setuptools does not compile it."""

    def has_ext_modules(self) -> bool:
        return True


class PlatformWheel(bdist_wheel):
    """A wheel for any Python 3 on one platform: PROVIDER_PLATFORM, e.g. manylinux_2_28_x86_64, or this one."""

    def get_tag(self) -> tuple[str, str, str]:
        platform = os.environ.get("PROVIDER_PLATFORM") or super().get_tag()[2]
        return "py3", "none", platform


setup(distclass=PlatformDistribution, cmdclass={"bdist_wheel": PlatformWheel})
