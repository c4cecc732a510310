# Corpora: documents to tokenized Arrow shards.


rule corpus:
    output:
        RESULTS / "data/{corpus}/corpus.json",
    # At most: what --cores allows, or the machine has.
    threads: 16
    # Where the network is: on the machine that runs Snakemake, unless the site gives corpora jobs of their own.
    localrule: not SITE.corpus_minutes
    resources:
        **corpus_resources(SITE),
    message:
        "Tokenize {wildcards.corpus}"
    shell:
        "{TST_TITAN} data build {STUDIES} --corpus {wildcards.corpus} --results {RESULTS} --workers {threads}"
