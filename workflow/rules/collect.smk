# Studies: the tables, plots and report of one definition, from finished segments and evaluations.

# Of a study's folder `snakemake --report` shows figures, tables and the page, each with its caption.
SHOWN = {
    "patterns": ["{result}.svg", "{result}.html", "{result}.csv"],
    "caption": "../report/results.rst",
    "labels": {"result": "{result}"},
}


rule study:
    input:
        unpack(TITAN.study_inputs),
    output:
        report(directory(STUDIES / "{study}"), category="{study}", **SHOWN),
    localrule: True
    params:
        definition=TITAN.definition,
    message:
        "Collect {wildcards.study}"
    shell:
        "{TST_TITAN} collect {STUDIES:q}/{wildcards.study:q}.yaml --results {RESULTS.root:q} --out {output:q}"


rule published:
    input:
        [str(path) for path in published_files()],
    output:
        report(directory(STUDIES / PUBLISHED), category=PUBLISHED, **SHOWN),
    localrule: True
    message:
        "Rebuild the published study from its printed numbers"
    shell:
        "{TST_TITAN} published --out {output:q}"
