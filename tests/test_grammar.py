"""Every command names a study in one way, and `tst-titan build` is Snakemake with the study checked first."""

import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import copy_checkout

from tst_titan.errors import UserError
from tst_titan.study.find import find_study


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("fresh"))


def tst_titan(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tst_titan.cli", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "name",
    ["scaling", "scaling.yaml", "studies/scaling", "studies/scaling/", "studies/scaling.yaml", "{fresh}/studies/scaling"],  # noqa: E501
)  # fmt: skip
def test_a_study_has_these_names(fresh: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh)
    # Where it was built, its folder lies beside it.
    (fresh / "studies" / "scaling").mkdir(exist_ok=True)
    assert find_study(name.format(fresh=fresh)).samefile(fresh / "studies" / "scaling.yaml")


def test_a_name_may_hold_a_dot_and_the_nearest_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "lr-0.1.yaml").write_text("")
    assert find_study(str(tmp_path / "lr-0.1")) == tmp_path / "lr-0.1.yaml"
    with pytest.raises(UserError, match=r"lr-0\.2\.yaml\); did you mean 'lr-0\.1'"):
        find_study(str(tmp_path / "lr-0.2"))
    (tmp_path / "other.yml").write_text("")
    with pytest.raises(UserError, match=r"other\.yml: .* rename it to other\.yaml"):
        find_study(str(tmp_path / "other"))


@pytest.mark.parametrize(
    "command",
    [
        ["plan"],
        ["status"],
        ["collect"],
        ["recommend", "3B"],
        ["data", "build", "--corpus", "none"],
        ["build"],
        ["prune"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_takes_the_same_names(fresh: Path, command: list[str]) -> None:
    first, *rest = command
    action = [rest.pop(0)] if first == "data" else []

    def asked(name: str) -> str:
        done = tst_titan(fresh, first, *action, name, *rest)
        assert "Traceback" not in done.stderr
        return done.stderr

    # Of a study that there is, each command's own; of another, the same words of all.
    for name in ("quikstart", "studies/quikstart.yaml"):
        told = asked(name)
        assert told.startswith(f"error: study {name!r}: no such file (")
        assert "studies/quikstart.yaml); did you mean 'quickstart'?" in told


def test_build_checks_then_calls_snakemake_with_the_profile_and_what_follows_the_dashes(fresh: Path) -> None:
    planned = tst_titan(fresh, "build", "quickstart", "studies/published", "--", "-n", "--quiet", "host")
    assert planned.returncode == 0, planned.stderr
    jobs = dict(line.split() for line in planned.stdout.splitlines() if len(line.split()) == 2)
    assert (jobs["study"], jobs["published"], jobs["train"]) == ("1", "1", "5")

    (fresh / "studies" / "broken.yaml").write_text("steps: many\n")
    (fresh / "elsewhere.yaml").write_text((fresh / "studies" / "quickstart.yaml").read_text())
    try:
        for name, mend in (("broken", "broken.yaml"), ("elsewhere.yaml", "move it to studies/")):
            refused = tst_titan(fresh, "build", name, "--profile", "slurm")
            assert refused.returncode == 2
            assert mend in refused.stderr
            assert "Traceback" not in refused.stderr
    finally:
        (fresh / "studies" / "broken.yaml").unlink()

    beside = tst_titan(fresh, "plan", "quickstart", "--", "-n")
    assert beside.returncode == 2
    assert "nothing follows `--` here" in beside.stderr
