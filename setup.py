"""Extension modules and their build switches; all metadata is in pyproject.toml.

Switches (environment, because PEP 517 front ends pass no flags):
  FASTPROXY_DEBUG=1     -O0 -g, bounds checks
  FASTPROXY_SANITIZE=1  AddressSanitizer and UBSan
  FASTPROXY_ANNOTATE=1  Cython's HTML annotation beside the generated C
Scratch goes to .build/: build/ is the packaging folder and is never written to.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent


def switch(name: str) -> bool:
    """Whether the environment turns the build switch FASTPROXY_<name> on."""
    return os.environ.get(f"FASTPROXY_{name}", "") not in ("", "0")


DEBUG, SANITIZE = switch("DEBUG"), switch("SANITIZE")
compile_args = ["-fvisibility=hidden", "-Wall", "-Wno-unused-function", "-Wno-unreachable-code"]
# with sanitizers -O2 takes twice as long to compile, and finds the same
compile_args += ["-O0", "-g"] if DEBUG else ["-O1"] if SANITIZE else ["-O2"]
link_args: list[str] = []
if SANITIZE:
    sanitizers = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g1"]
    compile_args += sanitizers
    link_args += sanitizers

directives = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,
    "embedsignature": False,
}

extensions = [
    Extension(
        f"fastproxy.{source.stem}",
        [f"fastproxy/{source.name}"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for source in sorted((ROOT / "fastproxy").glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        build_dir=".build/cython",
        compiler_directives=directives,
        annotate=switch("ANNOTATE"),
    ),
    options={"build": {"build_base": ".build"}, "build_ext": {"parallel": os.cpu_count() or 1}},
)
