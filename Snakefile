# tst-titan: a study's way from its definition to its report.
#
#   snakemake --profile local studies/quickstart          builds tables, plots and the report of one study
#   snakemake --profile slurm studies/scaling -n          shows the jobs that are missing, runs nothing
#
# A definition is `studies/NAME.yaml`; the target `studies/NAME` is a folder with its results. This file loads and
# plans every definition; each stage has its own file of rules; the work itself is in the package `tst_titan`.

import sys

from snakemake.utils import min_version

from tst_titan.configuration import site_file
from tst_titan.errors import UserError

min_version("9.20")


configfile: "workflow/config.yaml"


# A site's own file, tracked by nobody, over what the workflow comes with.
try:
    SITE_FILE = site_file()
except UserError as error:
    sys.exit(f"error: {error}")
if SITE_FILE:

    configfile: SITE_FILE


# The head of `snakemake --report`; each rule says what of its output is shown there.
report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/collect.smk"


rule all:
    default_target: True
    input:
        STUDIES / "quickstart",
