"""The set of constraints that `make` installs with; `make resolve` resolves it from the registry, which needs a
network."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "constraints"))
import resolve

TESTED = Path(__file__).parent.parent / "constraints" / "tested.txt"


def test_every_line_of_the_set_is_one_exact_version() -> None:
    lines = [line for line in TESTED.read_text().splitlines() if line and not line.startswith("#")]
    assert len(resolve.pins(TESTED)) == len(lines)
    # Another version on another machine would be another set.
    assert not [line for line in lines if ";" in line]


def test_the_stated_requirements_of_the_cpu_build_are_those_of_an_installed_one() -> None:
    if "+cpu" not in metadata.version("torch"):
        pytest.skip("the torch that is installed here is not the CPU build of PyTorch's index")
    asked = [line for line in metadata.requires("torch") or [] if "extra ==" not in line]
    assert asked == list(resolve.CPU_TORCH)
    assert metadata.version("torch").split("+")[0] == resolve.pins(TESTED)["torch"]


@pytest.mark.parametrize("line", ["triton>=3", "triton==3.7.*", "-r other.txt"])
def test_what_is_no_exact_version_is_no_pin(line: str, tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text(f"# a set\ntorch==2.13.0  # the tested one\n{line}\n")
    assert resolve.pins(tmp_path / "set.txt") == {"torch": "2.13.0"}
