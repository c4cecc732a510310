"""lm-eval's results as this project keeps them: value and standard error under the metric's name."""

import math
from collections.abc import Sequence
from typing import Any

from tst_titan.evaluate.suites import default_metric


def scores_of(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores of one `lm_eval.evaluate` of one name.

    Returns `tasks` and `subtasks`, each from name to metrics as docs/files.md describes. A group with a score of its
    own (such as mmlu) is one task, its members are subtasks; any other group or tag stands for its members.
    """
    groups = results.get("groups", {})
    members = {member for group in groups for member in results["group_subtasks"].get(group, ())}
    shown = [name for name in results["results"] if name not in members and _has_scores(results, name)]
    hidden = [name for name in results["results"] if name in members and _has_scores(results, name)]
    return {
        "tasks": {name: _task(results, name) for name in shown},
        "subtasks": {name: _task(results, name) for name in hidden},
    }


def ratio_with_stderr(pairs: Sequence[tuple[float, float]]) -> tuple[float, float | None]:
    """The ratio R = sum(y) / sum(x) over documents (y_i, x_i), and its standard error (None for one document).

    The standard error is that of the ratio estimator, by linearization (Cochran, Sampling Techniques, 6.3):
    sqrt(n / (n - 1) * sum((y_i - R x_i)^2)) / sum(x): documents are the units that were sampled, not bytes.
    """
    total_y, total_x = sum(y for y, _ in pairs), sum(x for _, x in pairs)
    ratio, n = total_y / total_x, len(pairs)
    if n < 2:
        return ratio, None
    squares = sum((y - ratio * x) ** 2 for y, x in pairs)
    return ratio, math.sqrt(n / (n - 1) * squares) / total_x


def _has_scores(results: dict[str, Any], name: str) -> bool:
    return any("," in key for key in results["results"][name])


def _task(results: dict[str, Any], name: str) -> dict[str, Any]:
    raw = results["results"][name]
    better = results.get("higher_is_better", {}).get(name) or {}
    metrics: dict[str, Any] = {}
    for key, value in raw.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not _finite(value):
            continue
        stderr = raw.get(f"{metric}_stderr,{filtered}")
        if not _finite(stderr):
            stderr = _weighted_stderr(metric, results.get("samples", {}).get(name, ()))
        metrics[metric if filtered == "none" else key] = {
            "value": float(value),
            "stderr": None if stderr is None else float(stderr),
            "higher_is_better": bool(better.get(metric, True)),
        }
    counts = results.get("n-samples", {})
    num_samples = (
        counts[name]["effective"]
        if name in counts
        else sum(counts[leaf]["effective"] for leaf in _leaves(results, name) if leaf in counts)
    )
    return {
        **metrics,
        **({"metric": default_metric(name, list(metrics))} if metrics else {}),
        "version": str(results["versions"].get(name, "none")),
        "num_fewshot": results.get("n-shot", {}).get(name),
        "num_samples": num_samples,
    }


def _leaves(results: dict[str, Any], group: str) -> set[str]:
    members: set[str] = set()
    for member in results["group_subtasks"].get(group, ()):
        members |= _leaves(results, member) if member in results["group_subtasks"] else {member}
    return members


def _weighted_stderr(metric: str, samples: Sequence[dict[str, Any]]) -> float | None:
    """Standard error of a likelihood per byte or word, for which lm-eval states none.

    Each sample holds (log-likelihood in nats, bytes or words). Bits per byte is their ratio over ln 2; a perplexity is
    its exponential, whose standard error follows to first order.
    """
    pairs = [tuple(sample[metric]) for sample in samples if isinstance(sample.get(metric), (tuple, list))]
    if metric not in ("bits_per_byte", "byte_perplexity", "word_perplexity") or not pairs:
        return None
    ratio, stderr = ratio_with_stderr([(-loglikelihood, weight) for loglikelihood, weight in pairs])
    if stderr is None:
        return None
    return stderr / math.log(2) if metric == "bits_per_byte" else math.exp(ratio) * stderr


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
