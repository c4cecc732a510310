# Studies: the tables, plots and report of one definition, from finished segments and evaluations.


def study_inputs(wildcards):
    plan = PLANS[wildcards.study]
    return {
        "segments": [RESULTS / "segments" / name / "done.json" for name in plan.segments],
        "evaluations": [
            RESULTS / "evaluations" / segment / f"{group}.json"
            for segment in plan.evaluations
            for group in plan.task_groups
        ],
    }


def shown_in_report(folder, category):
    """A study's folder, of which `snakemake --report` shows figures, tables and the page, each with its caption."""
    return report(
        directory(folder),
        patterns=["{result}.svg", "{result}.html", "{result}.csv"],
        caption="../report/results.rst",
        category=category,
        labels={"result": "{result}"},
    )


rule study:
    input:
        unpack(study_inputs),
    output:
        shown_in_report(STUDIES / "{study}", "{study}"),
    params:
        # Another definition gives another report; comments in it do not.
        definition=lambda wildcards: PLANS[wildcards.study].definition.model_dump_json(),
    localrule: True
    message:
        "Collect {wildcards.study}"
    shell:
        "{TST_TITAN} collect {STUDIES:q}/{wildcards.study:q}.yaml --results {RESULTS:q} --out {output:q}"


rule published:
    input:
        [str(path) for path in published_files()],
    output:
        shown_in_report(STUDIES / PUBLISHED, PUBLISHED),
    localrule: True
    message:
        "Rebuild the published study from its printed numbers"
    shell:
        "{TST_TITAN} published --out {output:q}"
