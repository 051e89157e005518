"""The optional compiled modules; everything else is declared in pyproject.toml.

Without a working compiler the package installs all the same: it cuts with NumPy or plain
Python, and creates and renames files one by one.
"""

import sys

from setuptools import Extension, setup

compiled_by_msvc = sys.platform == "win32" and "MSC" in sys.version


def compiled(name: str, *headers: str) -> Extension:
    """Return the module made of the C file of that name, which includes these headers."""
    return Extension(
        f"twinfold.{name}",
        [f"src/twinfold/{name}.c"],
        depends=[f"src/twinfold/{header}" for header in headers],
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        extra_compile_args=[] if compiled_by_msvc else ["-O3"],
        py_limited_api=True,
        optional=True,
    )


for_posix = [compiled("_files", "_times.h"), compiled("_reading", "_times.h")]

setup(
    ext_modules=[
        compiled("_chunker", "_kernels.h"),
        compiled("_matcher"),
        *([] if sys.platform == "win32" else for_posix),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
