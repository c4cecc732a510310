"""`tst-titan data`: build the corpora of a study, look into shards, measure how fast a corpus is read."""

import argparse
import os
from pathlib import Path
from typing import Any

from tst_titan.results import Results
from tst_titan.study.find import add_study, find_study


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `data` and its subcommands."""
    data = subparsers.add_parser("data", help="build, inspect and measure corpora").add_subparsers(
        required=True, metavar="ACTION"
    )
    _add_build(data)
    _add_inspect(data)
    _add_bench(data)
    _add_statistics(data)


def _add_build(data: argparse._SubParsersAction) -> None:
    build = data.add_parser("build", help="build the corpora that a study needs")
    add_study(build, what="a study (or the folder of all of them)")
    build.add_argument("--results", type=Path, default=Path("results"), help="folder of shared artifacts")
    build.add_argument("--corpus", help="build only the corpus of this id")
    build.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    steps = build.add_mutually_exclusive_group()
    steps.add_argument(
        "--list",
        action="store_true",
        help="only list the sources and make the tokenizer, for shares that run side by side",
    )
    steps.add_argument(
        "--part",
        type=_share,
        metavar="K/N",
        help=(
            "tokenize only the K-th of N shares (0 <= K < N) and stop; a later build without --part takes over what is "
            "there"
        ),
    )
    build.set_defaults(run=_build)


def _add_inspect(data: argparse._SubParsersAction) -> None:
    inspect = data.add_parser("inspect", help="show header, statistics and decoded samples")
    inspect.add_argument("path", type=Path, help="a corpus folder or one shard")
    inspect.add_argument("--verify", action="store_true", help="read everything: checksums, ids within the vocabulary")
    inspect.add_argument("--samples", type=int, default=3, help="documents to show (default 3)")
    inspect.set_defaults(run=_inspect)


def _add_bench(data: argparse._SubParsersAction) -> None:
    bench = data.add_parser("bench", help="measure how fast one process reads a corpus")
    bench.add_argument("path", type=Path, help="a corpus folder")
    bench.add_argument("--seq-len", type=int, default=2048)
    bench.add_argument("--bag-size", type=int, default=1)
    bench.add_argument("--sequences", type=int, default=8, help="sequences a batch (default 8)")
    bench.add_argument("--block-tokens", type=int, default=2048)
    bench.add_argument("--seconds", type=float, default=2.0)
    bench.add_argument(
        "--segment",
        type=Path,
        help="results/segments/SEGMENT_ID: compare with the data tokens/s that its training consumed",
    )
    bench.set_defaults(run=_bench)


def _add_statistics(data: argparse._SubParsersAction) -> None:
    statistics = data.add_parser("stats", help="mutual information of tokens by their distance, with its power law")
    statistics.add_argument("path", type=Path, help="a corpus folder")
    statistics.add_argument("--distance", type=int, default=32, help="largest distance (default 32)")
    statistics.add_argument("--tokens", type=int, default=5_000_000, help="tokens to read (default 5,000,000)")
    statistics.set_defaults(run=_statistics)


def _share(text: str) -> tuple[int, int]:
    share, _, shares = text.partition("/")
    if not (share.isdecimal() and shares.isdecimal() and int(share) < int(shares)):
        raise argparse.ArgumentTypeError(f"{text!r}: write K/N with 0 <= K < N, for example 0/4")
    return int(share), int(shares)


def _build(args: argparse.Namespace) -> None:
    from tst_titan.data.build import build_corpus, prepare, source_shares, tokenize_share
    from tst_titan.data.building import corpus_lock
    from tst_titan.data.needed import tokens_needed
    from tst_titan.errors import UserError
    from tst_titan.plan import load_plan, load_plans

    if Path(args.study).is_dir() and not Path(f"{args.study.rstrip('/')}.yaml").is_file():
        plans = list(load_plans(Path(args.study), args.results)[0].values())
    else:
        plans = [load_plan(find_study(args.study), args.results)]
    corpora = {name: corpus for plan in plans for name, corpus in plan.corpora.items()}
    if args.corpus and args.corpus not in corpora:
        raise UserError(f"needs no corpus {args.corpus}; its corpora: {', '.join(corpora)}", where=args.study)
    wanted = [args.corpus] if args.corpus else list(corpora)
    shares = {
        identity: source_shares(corpora[identity], Results(args.results).corpus(identity).folder) for identity in wanted
    }
    needed = tokens_needed(plans, shares)
    for identity in wanted:
        folder = Results(args.results).corpus(identity).folder
        options: dict[str, Any] = {"num_workers": args.workers, "needed": needed[identity]}
        if args.list:
            with corpus_lock(folder):
                prepared = prepare(corpora[identity], folder, num_workers=args.workers)
            for source_jobs in prepared:
                num_inputs = sum(len(job.inputs) for job in source_jobs.jobs)
                print(f"{folder}: {source_jobs.source.name}: {num_inputs:,} files in {len(source_jobs.jobs):,} groups")
            continue
        if args.part:
            tokenize_share(corpora[identity], folder, args.part, **options)
            continue
        manifest = build_corpus(corpora[identity], folder, **options)
        num_tokens = sum(source["num_tokens"] for source in manifest["sources"])
        held_out = manifest["validation"]["num_tokens"]
        more = "" if all(source.get("complete", True) for source in manifest["sources"]) else ", enough for the plans"
        print(f"{folder}: {num_tokens:,} training tokens{more}, {held_out:,} held out")
        sources = manifest["sources"]
        if len(sources) > 1:
            shown = ", ".join(f"{source['name']} {source['weight']:.2%}" for source in sources)
            print(f"  read in the shares {shown}")


def _inspect(args: argparse.Namespace) -> None:
    from tst_titan.data.inspect import describe_corpus, describe_shard
    from tst_titan.data.manifest import verify_corpus
    from tst_titan.data.shards import verify_shard

    if args.path.is_dir():
        print(describe_corpus(args.path, num_samples=args.samples))
        if args.verify:
            print(f"verified: {verify_corpus(args.path):,} tokens, all checksums right, all ids within the vocabulary")
    else:
        print(describe_shard(args.path, num_samples=args.samples))
        if args.verify:
            print(
                f"verified: {verify_shard(args.path).num_tokens:,} tokens, checksum right, all ids within the "
                "vocabulary"
            )


def _bench(args: argparse.Namespace) -> None:
    from tst_titan.data.inspect import consumed_rate, measure_reading

    measured = measure_reading(
        args.path,
        num_lanes=args.sequences,
        tokens_per_lane=args.seq_len * args.bag_size,
        lookahead=args.bag_size,
        block_tokens=args.block_tokens,
        seconds=args.seconds,
    )
    print(
        f"first batch after {measured.first_batch_s * 1e3:.1f} ms, then {measured.tokens_per_s / 1e6:.1f}M tokens/s "
        "(one process)"
    )
    if args.segment:
        consumed = consumed_rate(args.segment)
        ratio = measured.tokens_per_s / consumed
        print(f"{args.segment}: training consumed {consumed:,.0f} data tokens/s: reading is {ratio:,.0f} times as fast")


def _statistics(args: argparse.Namespace) -> None:
    from tst_titan.data.statistics import fit_power_law, mutual_information

    distances = range(1, args.distance + 1)
    information = mutual_information(args.path, distances, args.tokens)
    law = fit_power_law(distances, information)
    print("distance  mutual information (nats)")
    for distance, value in zip(distances, information, strict=True):
        print(f"{distance:8d}  {value:.4f}")
    print(f"fit: {law.c0:.3f} + {law.a:.3f} * d^{law.k:.3f}, root mean square residual {law.residual:.4f}")
    if min(law.c0, law.a) >= 0:
        print(f"as an arm's weights: bag_weighting: mutual_information({law.c0:.3f}, {law.a:.3f}, {law.k:.3f})")
