"""Tests do not depend on which of them came first."""

import subprocess
import sys

from checkouts import REPOSITORY

FIRST_TORCHTITAN = """
import conftest
import torchtitan.distributed.utils as utils
import torch
print(utils.device_type, torch.accelerator.is_available())
"""


def test_a_test_that_imports_torchtitan_first_leaves_it_usable_to_those_after_it() -> None:
    """It took a machine without a GPU for one with CUDA: "no NCCL built in" in every later training of the process."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_TORCHTITAN], cwd=REPOSITORY / "tests",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    device, accelerator = done.stdout.split()
    assert (device == "cpu") == (accelerator == "False")


def test_plans_are_made_without_torch() -> None:
    """They count tokens by the method's own formula, whose package imports torch for the rest: seconds a command."""
    code = "import sys, tst_titan.plan.planner; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
