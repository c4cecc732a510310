# tst-titan: a study's way from its definition to its report.
#
#   snakemake --profile local studies/quickstart          builds tables, plots and the report of one study
#   snakemake --profile slurm studies/scaling -n          shows the jobs that are missing, runs nothing
#
# A definition is `studies/NAME.yaml`; the target `studies/NAME` is a folder with its results. Each stage has its own file of rules;
# tst_titan/workflow.py loads and plans every definition and says what a rule needs; the work itself is in the package `tst_titan`.

from snakemake.utils import min_version

from tst_titan.workflow import site_file_of_user

min_version("9.20")


configfile: "workflow/config.yaml"


# A site's own file, tracked by nobody, over what the workflow comes with.
SITE_FILE = site_file_of_user()
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
