"""The optional compiled kernel; everything else is declared in pyproject.toml.

Without a working compiler the package installs all the same and cuts with NumPy or plain Python.
"""

import sys

from setuptools import Extension, setup

compiled_by_msvc = sys.platform == "win32" and "MSC" in sys.version

setup(
    ext_modules=[
        Extension(
            "twinfold._chunker",
            ["src/twinfold/_chunker.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=[] if compiled_by_msvc else ["-O3"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
