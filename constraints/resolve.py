"""Resolve a set of constraints as a machine does that has nothing but the package registry; installs nothing.

`make resolve` runs it: for every supported Python, on Linux (x86-64 and ARM) and macOS (ARM), with the registry's build
of torch, and on Linux x86-64 with its CPU build too. It fails where no set of packages satisfies tst-titan and the
constraints, where a wheel is missing, and where a package is not pinned. uv does it rather than pip, which reads
`python_version` and the like of the Python it runs in. uv's settings and the site's, pip's included, are not read: what
an installed machine adds hides what an ordinary one lacks.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux ARM": "aarch64-manylinux_2_28",
    "macOS ARM": "aarch64-apple-darwin",
}
# The oldest macOS that torch has a wheel for.
MACOS = "14.0"
# What the CPU build asks for (its METADATA, the same in the registry's build but for CUDA and triton); the registry
# does not have it. tests/test_constraints.py compares it with an installed one.
CPU_TORCH = (
    "filelock",
    "typing-extensions>=4.10.0",
    "setuptools>=77.0.3",
    "sympy>=1.13.3",
    "networkx>=2.5.1",
    "jinja2",
    "fsspec>=0.8.5",
)
# Pure Python, published as source alone.
SOURCES = ("connection-pool", "rouge-score", "sqlitedict", "word2number")
# What torch itself pins, to a version or to a release of CUDA.
PINNED_BY_TORCH = ("nvidia-", "cuda-")


def pins(constraints: Path) -> dict[str, str]:
    """Version of every package that a set pins, by its normal name."""
    lines = constraints.read_text().splitlines()
    found = (re.fullmatch(r"([\w.-]+)==([\w.+!]+)", line.split("#")[0].strip()) for line in lines)
    return {normal(pin[1]): pin[2] for pin in found if pin}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class Case:
    """A machine that installs: its Python, its platform (a key of `PLATFORMS`), the build of torch and the extra that
    it asks for."""

    python: str
    platform: str
    cpu_torch: bool
    extra: str

    def __str__(self) -> str:
        build = "CPU" if self.cpu_torch else "registry's"
        return (
            f"Python {self.python}, {self.platform}, {build} torch, {f'[{self.extra}]' if self.extra else 'no extra'}"
        )


def cases() -> list[Case]:
    """With the extra everywhere: as all is pinned, an install without it gets a part of that. Once without it, for the
    size."""
    builds = [("Linux x86-64", False), ("Linux x86-64", True), ("Linux ARM", False), ("macOS ARM", False)]
    wanted = [Case(python, name, cpu_torch, "test") for python in PYTHONS for name, cpu_torch in builds]
    return [Case(PYTHONS[0], name, cpu_torch, "") for name, cpu_torch in builds[:2]] + wanted


def resolve(constraints: Path, case: Case) -> dict[str, int]:
    """Bytes to download of each package that would be installed, by name; raises `RuntimeError` with the resolver's
    words."""
    with tempfile.TemporaryDirectory() as folder:
        settings, lock = Path(folder, "uv.toml"), Path(folder, "pylock.toml")
        # CPU_TORCH stands for the requirements of the registry's build of the same version.
        torch = {"name": "torch", "version": pins(constraints)["torch"], "requires-dist": list(CPU_TORCH)}
        stated = "[[dependency-metadata]]\n" + "".join(f"{key} = {json.dumps(torch[key])}\n" for key in torch)
        settings.write_text(stated if case.cpu_torch else "")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PIP_"))}
        done = subprocess.run(
            [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--format=pylock.toml", f"--output-file={lock}",
             f"--config-file={settings}", f"--python={sys.executable}", f"--python-version={case.python}",
             f"--python-platform={PLATFORMS[case.platform]}", "--only-binary=:all:",
             *(f"--no-binary={name}" for name in SOURCES), f"--constraint={constraints}",
             *([f"--extra={case.extra}"] if case.extra else []), str(ROOT / "pyproject.toml")],
            env=environment | {"UV_PYTHON_DOWNLOADS": "never", "MACOSX_DEPLOYMENT_TARGET": MACOS},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        packages = tomllib.loads(lock.read_text())["packages"]
    # Of several wheels that fit, the one for the platform is the larger. tst-titan itself is a folder, of no size.
    files = {package["name"]: package.get("wheels") or [package.get("sdist", {"size": 0})] for package in packages}
    return {normal(name): max(file["size"] for file in of_package) for name, of_package in files.items()}


def check(constraints: Path, case: Case) -> str:
    """What a case downloads, in words; raises `RuntimeError` where it cannot be installed, or with a package of any
    version."""
    sizes = resolve(constraints, case)
    loose = [name for name in sizes.keys() - pins(constraints).keys() if not name.startswith(PINNED_BY_TORCH)]
    if loose:
        raise RuntimeError(f"{constraints} does not pin {', '.join(sorted(loose))}")
    packages = len(sizes)
    # The registry knows no size of the CPU build's own wheel.
    if case.cpu_torch:
        del sizes["torch"]
    return f"{packages} packages, {sum(sizes.values()) / 1e6:,.0f} MB{' and torch' if case.cpu_torch else ''}"


def main() -> int:
    constraints = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "constraints" / "tested.txt"
    failed = 0
    # Most of the time is waiting for the registry.
    with ThreadPoolExecutor(max_workers=8) as pool:
        for case, result in [(case, pool.submit(check, constraints, case)) for case in cases()]:
            try:
                print(f"{case}: {result.result()}", flush=True)
            except RuntimeError as error:
                failed += 1
                print(f"{case}: FAILED\n{error}", file=sys.stderr, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
