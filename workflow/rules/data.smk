# Corpora: documents to tokenized Arrow shards. Only as much is tokenized as the plans read. A large corpus is listed once
# (its tokenizer made), tokenized by many jobs, each a share of its files, and put together by one.

import os

from tst_titan.data.needed import holds, recorded_weights, tokens_needed
from tst_titan.files import read_json

CORPORA = {identity for plan in PLANS.values() for identity in plan.corpora}
TOKENS_NEEDED = tokens_needed(PLANS.values(), recorded_weights(CORPORA, RESULTS / "data"))
TOKENIZE = "{TST_TITAN} data build {STUDIES:q} --results {RESULTS:q} --corpus {wildcards.corpus:q} --workers {threads}"
# Where the network is: on the machine that runs Snakemake, unless the site gives corpora jobs of their own.
LOCAL_CORPORA = not SITE.corpus_minutes
# At most: what --cores allows, or the machine has. `workflow.cores` itself is an error where jobs go to a cluster.
TOKENIZE_THREADS = granted_cores(workflow) or min(16, os.cpu_count() if LOCAL_CORPORA else 16)


def downloads(wildcards):
    """Where a job's downloads lie until they are read: beside the corpus, as 16 files of 2 GB fill a node's /tmp."""
    return str((RESULTS / "data" / wildcards.corpus / ".work" / "downloads").absolute())


def corpus_parts(wildcards):
    """The shares of a corpus's files that are jobs of their own; none where one job does it all or did it."""
    if (RESULTS / "data" / wildcards.corpus / "corpus.json").exists():
        return []
    settings = next(plan.corpora[wildcards.corpus] for plan in PLANS.values() if wildcards.corpus in plan.corpora)
    if all(source.kind == "python-stdlib" for source in settings.sources):
        return []
    needed = sum(
        min(tokens, settings.max_tokens or tokens) for tokens in TOKENS_NEEDED[wildcards.corpus].values()
    )
    count = min(CONFIGURATION.data.most_jobs, -(-needed // CONFIGURATION.data.tokens_per_job))
    work = RESULTS / "data" / wildcards.corpus / ".work"
    return [work / f"part-{number}-of-{count}" for number in range(count)] if count > 1 else []


def corpus_of(segment):
    """What a segment's data come from: corpus.json, or the mark that it has grown where it holds too little."""
    identity = segment.recipe.corpus.id
    manifest = RESULTS / "data" / identity / "corpus.json"
    needed = TOKENS_NEEDED[identity]
    if manifest.exists() and not holds(read_json(manifest), needed):
        return manifest.with_name(f"grown-{sum(needed.values())}")
    return manifest


rule corpus_listing:
    output:
        touch(RESULTS / "data/{corpus}/.work/listed"),
    threads: TOKENIZE_THREADS
    localrule: LOCAL_CORPORA
    resources:
        tmpdir=downloads,
        **corpus_resources(SITE),
    message:
        "List {wildcards.corpus}"
    shell:
        TOKENIZE + " --list"


rule corpus_part:
    input:
        RESULTS / "data/{corpus}/.work/listed",
    output:
        touch(RESULTS / "data/{corpus}/.work/part-{part}-of-{parts}"),
    threads: TOKENIZE_THREADS
    localrule: LOCAL_CORPORA
    resources:
        tmpdir=downloads,
        **corpus_resources(SITE),
    message:
        "Tokenize share {wildcards.part} of {wildcards.parts} of {wildcards.corpus}"
    shell:
        TOKENIZE + " --part {wildcards.part}/{wildcards.parts}"


rule corpus:
    input:
        corpus_parts,
    output:
        # Snakemake deletes outputs before a job: not what another checkout has finished meanwhile.
        update(RESULTS / "data/{corpus}/corpus.json"),
    threads: TOKENIZE_THREADS
    localrule: LOCAL_CORPORA
    resources:
        tmpdir=downloads,
        **corpus_resources(SITE),
    message:
        "Tokenize {wildcards.corpus}"
    shell:
        TOKENIZE


rule corpus_growth:
    output:
        touch(RESULTS / "data/{corpus}/grown-{tokens}"),
    threads: TOKENIZE_THREADS
    localrule: LOCAL_CORPORA
    resources:
        tmpdir=downloads,
        **corpus_resources(SITE),
    message:
        "Tokenize more of {wildcards.corpus}"
    shell:
        TOKENIZE
