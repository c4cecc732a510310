"""How planning time grows with the number of runs: `python benchmarks/plan.py` (100, 1,000 and 10,000 runs).

Prints seconds and milliseconds a run for loading the study, planning it against empty results, and planning it
against results that hold every segment, then the ratio of the last size's time a run to the first's (linear: about
1). Exit status 1 where the growth is more than 1.5 times linear.
"""

import sys
import tempfile
import time
from pathlib import Path

from tst_titan.files import write_json
from tst_titan.plan import segment_to_dict
from tst_titan.plan.planner import make_plans
from tst_titan.study import load_study

STUDY = """\
corpus: {{source: python-stdlib, tokenizer: bpe-4096}}
models: 2M
steps: 20000
arms:
  baseline: {{}}
  tst: {{bag_size: [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], step_ratio: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]}}
seeds: {seeds}
evaluate: {{tasks: offline, at: every 10%}}
"""
SIZES = (1, 10, 100)


def measure(num_seeds: int, folder: Path, *, finished: bool) -> tuple[int, float, float]:
    """Runs, seconds to load the study, seconds to plan it."""
    file = folder / f"grid-{num_seeds}.yaml"
    file.write_text(STUDY.format(seeds=list(range(num_seeds))))
    start = time.perf_counter()
    study = load_study(file)
    loaded = time.perf_counter()
    results = folder / f"results-{num_seeds}"
    if finished:
        for id, segment in make_plans([study], results)[0][0].segments.items():
            write_json(results / "segments" / id / "settings.json", segment_to_dict(segment))
            write_json(results / "segments" / id / "done.json", {})
    before = time.perf_counter()
    plan = make_plans([study], results)[0][0]
    assert not (finished and plan.new_segments)
    return len(plan.runs), loaded - start, time.perf_counter() - before


def main() -> int:
    per_run = []
    with tempfile.TemporaryDirectory() as name:
        for num_seeds in SIZES:
            runs, load_s, plan_s = measure(num_seeds, Path(name), finished=False)
            per_run.append((load_s + plan_s) / runs)
            print(f"{runs:6d} runs: load {load_s:.2f} s, plan {plan_s:.2f} s, {per_run[-1] * 1e3:.2f} ms a run")
        runs, _, plan_s = measure(SIZES[1], Path(name), finished=True)
        print(f"{runs:6d} runs, every segment finished: plan {plan_s:.2f} s, {plan_s / runs * 1e3:.2f} ms a run")
    growth = per_run[-1] / per_run[0]
    print(f"time a run, {SIZES[-1]}00 runs against {SIZES[0]}00: {growth:.2f} (linear: 1)")
    return 0 if growth < 1.5 else 1


if __name__ == "__main__":
    sys.exit(main())
