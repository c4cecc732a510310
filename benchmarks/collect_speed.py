"""Time and memory of collecting a large study: `python benchmarks/collect_speed.py [RUNS] [ROWS] [--unsealed]`.

Writes synthetic results in the documented format (about 2.9 kB a logged step and ten runs) to a temporary folder,
collects them, prints seconds, CPU seconds (what a busy machine does not change), peak memory and the size of the
report. Then the state of all segments is read twice, as `tst-titan status` does, and the report is opened in Chromium,
where there is one.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from browser import CHROMIUM, Browser

from tst_titan.collect.status import segment_statuses
from tst_titan.files import write_json
from tst_titan.plan import Plan, Segment, load_plan, segment_to_dict
from tst_titan.report.study import collect_study
from tst_titan.train.record import sealed

STUDY = """\
corpus: {{source: python-stdlib, tokenizer: bpe-4096, validation_tokens: 200k}}
models: 2M
steps: {steps}
arms:
  baseline: {{}}
  tst: {{bag_size: [2, 3, 4, 5, 6, 7, 8, 10, 12, 16], step_ratio: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}}
training: {{warmup_steps: 100}}
seeds: {seeds}
compare: [equal_flops, equal_loss, equal_data]
"""


def write_segment(segment: Segment, results: Path, *, sealing: bool) -> int:
    """Log every step of a segment, its record sealed or as of an earlier version; returns the number of rows."""
    folder = results / "segments" / segment.id
    write_json(folder / "settings.json", segment_to_dict(segment))
    steps = np.arange(segment.start_step + 1, segment.end_step + 1)
    noise = np.random.default_rng(int(steps[0])).normal(size=len(steps)) * 0.02
    losses = (2.5 + 6 * (1 + steps / 20) ** -0.5 + noise).tolist()
    per_step = segment.recipe.tokens_per_step
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step, loss in zip(steps.tolist(), losses, strict=True):
            row = {
                "step": step, "loss": loss, "grad_norm": 0.8123456, "learning_rate": 0.003,
                "equivalent_tokens": step * per_step, "data_tokens": step * per_step, "flops": 6e15 * step,
                "step_time_s": 0.1234567, "tokens_per_s": 8301.123, "data_tokens_per_s": 33204.5,
                "phase": segment.stage.name, "bag_size": segment.stage.bag_size, "time": 1.7e9,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
            if step % 1000 == 0 or step == segment.end_step:
                validation = {"step": step, "validation_loss": loss, "validation_tokens": 200000}
                file.write(json.dumps(validation) + "\n")
    done = {
        "segment": segment.id, "start_step": segment.start_step, "end_step": segment.end_step,
        "checkpoint": f"checkpoint/step-{segment.end_step}", "equivalent_tokens": segment.equivalent_tokens,
        "data_tokens": segment.data_tokens, "flops": 6e15 * segment.end_step, "wall_clock_s": 10.0,
        "attempts": [{"start": 0.0, "end": 10.0, "world_size": 1}],
    }  # fmt: skip
    write_json(folder / "provenance.json", {"segment": segment.id, "device": "one CPU"})
    write_json(folder / "done.json", sealed(done, folder) if sealing else done)
    return len(steps)


def collected(plan: Plan, root: Path) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    collect_study(plan, plan.file, root / "results", root / "out")
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = (root / "out" / "report.html").stat().st_size / 1e6
    print(
        f"collected {len(plan.runs)} runs in {seconds:.1f} s ({cpu:.1f} s of CPU), peak memory {peak:.2f} GiB, report "
        f"{size:.2f} MB"
    )


def opened(page: Path, folder: Path) -> None:
    """Open the report and scroll to its first figures; seconds count from the navigation on, CPU seconds are those of
    the page's main thread."""
    browser = Browser(folder)
    seen = (
        "[...document.querySelectorAll('figure')].filter((f) => f.checkVisibility() && f.getBoundingClientRect().top < "
        "innerHeight)"
    )
    for _ in range(3):
        browser.show(page)
        loaded, loaded_cpu = browser.value("performance.now()") / 1000, browser.cpu_seconds()
        browser.value("document.querySelector('figure').scrollIntoView()")
        browser.until(f"{seen}.every((f) => f.dataset.drawn === 'done')")
        drawn, drawn_cpu = browser.value("performance.now()") / 1000, browser.cpu_seconds()
        print(
            f"opened in {loaded:.2f} s ({loaded_cpu:.2f} s of CPU), first figures drawn after {drawn:.2f} s "
            f"({drawn_cpu:.2f} s of CPU)"
        )
    browser.close()


def main() -> None:
    sealing = "--unsealed" not in sys.argv
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    num_runs, num_rows = [*numbers, *(500, 10_000)[len(numbers) :]]
    seeds = list(range(-(-num_runs // 71)))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        file = root / "large.yaml"
        file.write_text(STUDY.format(steps=num_rows, seeds=seeds), encoding="utf-8")
        plan = load_plan(file, root / "results")
        rows = sum(write_segment(segment, root / "results", sealing=sealing) for segment in plan.segments.values())
        print(f"wrote {len(plan.segments)} segments with {rows} rows for {len(plan.runs)} runs of {num_rows} steps")
        collected(plan, root)
        for _ in range(2):
            started, cpu = time.perf_counter(), time.process_time()
            segment_statuses(plan, root / "results")
            print(
                f"state of {len(plan.segments)} segments in {time.perf_counter() - started:.2f} s "
                f"({time.process_time() - cpu:.2f} s of CPU)"
            )
        if CHROMIUM:
            opened(root / "out" / "report.html", root / "browser")


if __name__ == "__main__":
    main()
