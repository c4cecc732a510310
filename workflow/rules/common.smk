# What all rules share: the plans of all studies, and how the package's command is called.

import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from tst_titan.errors import UserError
from tst_titan.plan import load_plans

STUDIES = Path(config["studies"])
RESULTS = Path(config["results"])
TST_TITAN = f"{shlex.quote(sys.executable)} -m tst_titan.cli"
PLANS, BROKEN = load_plans(STUDIES, RESULTS)
SEGMENTS = {name: segment for plan in PLANS.values() for name, segment in plan.segments.items()}
CORPORA = {name: corpus for plan in PLANS.values() for name, corpus in plan.corpora.items()}
HARDWARE = config["hardware"]
# Part of a command and never of `params`: another machine is no reason to train again.
HARDWARE_SETTINGS = " ".join(shlex.quote(f"{key}={value}") for key, value in HARDWARE.items())


wildcard_constraints:
    study=r"[^/]+",
    corpus=r"[^/]+",
    segment=r"[^/]+/[^/]+",
    group=r"[^/]+",


def plan_of(study):
    """The plan of a study by name; a broken or unknown one ends the run before any job starts."""
    if study in PLANS:
        return PLANS[study]
    raise WorkflowError(str(BROKEN[study] if study in BROKEN else unknown_study(study)))


def unknown_study(study):
    from difflib import get_close_matches

    near = get_close_matches(study, [*PLANS, *BROKEN], n=1)
    hint = f" Did you mean {STUDIES / near[0]}?" if near else ""
    return UserError(f"{STUDIES / study}.yaml: no such study.{hint} There are: {', '.join(sorted(PLANS))}")


def segment_of(name):
    if name not in SEGMENTS:
        raise WorkflowError(f"{name}: no study in {STUDIES} has this segment; `tst-titan plan STUDY` lists them")
    return SEGMENTS[name]
