"""A torchtitan model as an lm-eval model, straight from its checkpoint.

Agrees with lm-eval's Hugging Face backend on the export of the same checkpoint, and costs less: the head is applied
only where a token is scored, and requests with the same input share one row.

Shape suffixes: B rows of a batch, L positions, D model dim, N scored positions, V vocabulary.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tst_titan.data.tokenizers import CorpusTokenizer
from tst_titan.errors import UserError
from tst_titan.evaluate.ranks import Ranks

# Positions of a batch, padding included. A CPU gains nothing beyond a few thousand; a GPU starts high and is
# halved whenever its memory does not suffice.
_CPU_POSITIONS = 4096
_GPU_POSITIONS = 1 << 18
# A divided model cannot try again with less: the ranks would no longer do the same.
_SHARDED_POSITIONS = 1 << 15
# Logits held at once: rows of the head's output times the vocabulary.
_CPU_LOGITS = 1 << 23
_GPU_LOGITS = 1 << 28
_PROGRESS_SECONDS = 20.0

Request = tuple[Any, list[int], list[int]]
"""lm-eval's `_loglikelihood_tokens` request: a cache key, the context's tokens, the continuation's tokens."""


@dataclass
class _Row:
    """One input and the requests that are answered from it: (index of the request, its continuation)."""

    tokens: tuple[int, ...]
    scored: list[tuple[int, list[int]]] = field(default_factory=list)

    @property
    def num_scored(self) -> int:
        """Positions at the row's end whose hidden states are needed."""
        return max(len(continuation) for _, continuation in self.scored)


class TitanLM(TemplateLM):
    """Scores and continues text with a whole torchtitan decoder.

    No special token is added to a text and none is recognized inside of one: as the corpus was tokenized. Where there
    is no context, the end-of-text token stands for it. Inputs longer than `max_length` lose their beginning. A
    continuation longer than that is scored piece by piece, each after as much of what precedes it as there is room for.

    Args:
        model: the decoder, in evaluation mode, on the device where it is to run.
        tokenizer: the corpus's.
        max_length: the longest input, the model's `seq_len`.
        progress: print progress to stderr now and then.
        ranks: the processes that share the work. Whole batches are shared out, so that scores are to the bit those of
            one process.
        sharded: the weights are divided between processes, which score the same batches at the same time.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: CorpusTokenizer,
        *,
        max_length: int,
        progress: bool = False,
        ranks: Ranks | None = None,
        sharded: bool = False,
    ):
        super().__init__()
        self.ranks = Ranks() if sharded else ranks or Ranks()
        self.sharded = sharded
        self.model = model
        self.corpus_tokenizer = tokenizer
        self.max_length = max_length
        self.progress = progress and self.ranks.first
        self.model_device = next(model.parameters()).device
        on_cpu = self.model_device.type == "cpu"
        self.batch_positions = self._first_positions = _CPU_POSITIONS if on_cpu else _GPU_POSITIONS
        if sharded:
            self.batch_positions = self._first_positions = min(self.batch_positions, _SHARDED_POSITIONS)
        self.batch_logits = _CPU_LOGITS if on_cpu else _GPU_LOGITS
        # Not before: it needs torchtitan, which what is read of this module to fetch data does not.
        from tst_titan.train.titan.upstream import skip_head

        # The head is applied here, to the scored positions alone.
        skip_head(model)

    @property
    def eot_token_id(self) -> int:
        return self.corpus_tokenizer.eos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.corpus_tokenizer.tokenizer.encode(string, add_special_tokens=False).ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Sum of the log-probabilities (nats) of each continuation, and whether greedy decoding would give it."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability (nats) of each whole text, in windows of `max_length` that share one token of context."""
        windows: list[Request] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.eot_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, rolling):
                windows.append((None, context, continuation))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (loglikelihood, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += loglikelihood
        return totals

    def _loglikelihood_tokens(self, requests: Sequence[Request], **kwargs: Any) -> list[tuple[float, bool]]:  # type: ignore[override]
        rows: dict[tuple[int, ...], _Row] = {}
        for index, (_, context, continuation) in enumerate(requests):
            for start in range(0, len(continuation), self.max_length):
                end = start + self.max_length
                tokens = tuple((context + continuation[:end])[-(self.max_length + 1) :][:-1])
                rows.setdefault(tokens, _Row(tokens)).scored.append((index, continuation[start:end]))
        # Longest first: memory runs out at once or not at all.
        waiting = self._share(sorted(rows.values(), key=lambda row: (-len(row.tokens), row.tokens)))
        found: list[tuple[int, tuple[float, bool]]] = []
        progress = _Progress(len(waiting), self.progress)
        while waiting:
            num_rows = max(1, self.batch_positions // max(1, len(waiting[0].tokens)))
            try:
                found += self._score(waiting[:num_rows])
            except torch.OutOfMemoryError:
                num_rows = min(num_rows, len(waiting))
                if self.sharded:
                    # One rank alone would try again while the others wait for it.
                    raise UserError(
                        f"out of memory for {num_rows} sequences of {len(waiting[0].tokens)} tokens on a divided "
                        "model; use more processes"
                    ) from None
                if num_rows == 1:
                    raise UserError(
                        f"out of memory for one sequence of {len(waiting[0].tokens)} tokens; use a device with more "
                        "memory"
                    ) from None
                self.batch_positions = num_rows // 2 * len(waiting[0].tokens)
                self.batch_logits //= 2
                torch.cuda.empty_cache()
                continue
            waiting = waiting[num_rows:]
            progress.show(len(waiting))
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        # Sorted: the sum over the pieces of a continuation is the same on any number of ranks.
        for index, (logprob, greedy) in sorted(self.ranks.gather(found)):
            answers[index] = (answers[index][0] + logprob, answers[index][1] and greedy)
        return answers

    def _share(self, rows: list[_Row]) -> list[_Row]:
        """The rows of this rank's batches: all ranks must agree on it, so it does not depend on the memory of one."""
        batches = []
        while rows:
            num_rows = max(1, self._first_positions // max(1, len(rows[0].tokens)))
            batches.append(rows[:num_rows])
            rows = rows[num_rows:]
        return [row for batch in self.ranks.share(batches) for row in batch]

    @torch.no_grad()
    def _score(self, rows: Sequence[_Row]) -> Iterator[tuple[int, tuple[float, bool]]]:
        """The answers of the requests of one batch, as (index, answer)."""
        hidden_BLD = self.model(_padded(rows, self.model_device))
        keep = [range(len(row.tokens) - row.num_scored, len(row.tokens)) for row in rows]
        batch_N = torch.tensor([b for b, positions in enumerate(keep) for _ in positions], device=self.model_device)
        position_N = torch.tensor([p for positions in keep for p in positions], device=self.model_device)
        hidden_ND = hidden_BLD[batch_N, position_N]
        # One target a scored position and request: (position in N, token), all requests one after another.
        starts = _starts(len(positions) for positions in keep)
        wanted = [
            (start + row.num_scored - len(continuation) + i, token)
            for row, start in zip(rows, starts, strict=True)
            for _, continuation in row.scored
            for i, token in enumerate(continuation)
        ]
        source_M, token_M = torch.tensor(wanted, device=self.model_device).T
        logprobs, greedy = self._head(hidden_ND, source_M, token_M)
        at = 0
        answers = []
        for row in rows:
            for index, continuation in row.scored:
                end = at + len(continuation)
                answers.append((index, (float(logprobs[at:end].sum()), bool(greedy[at:end].all()))))
                at = end
        return iter(answers)

    def _head(
        self, hidden_ND: torch.Tensor, source_M: torch.Tensor, token_M: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of `token_M` at rows `source_M` of `hidden_ND`, and whether it is the likeliest token.

        At most `batch_logits` logits exist at once. Sums over the vocabulary are in float32, over tokens in float64.
        """
        vocab_size = self.model.lm_head.weight.shape[0]
        chunk = max(1, self.batch_logits // vocab_size)
        logprob_M = torch.empty(len(source_M), dtype=torch.float64, device=self.model_device)
        greedy_M = torch.empty(len(source_M), dtype=torch.bool, device=self.model_device)
        for start in range(0, len(hidden_ND), chunk):
            logits_NV = self.model.lm_head(hidden_ND[start : start + chunk]).float()
            logprob_NV = logits_NV.log_softmax(-1)
            here = (source_M >= start) & (source_M < start + chunk)
            row, token = source_M[here] - start, token_M[here]
            logprob_M[here] = logprob_NV[row, token].double()
            greedy_M[here] = logits_NV.argmax(-1)[row] == token
        return logprob_M.cpu(), greedy_M.cpu()

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to a stop sequence; each token costs a forward pass over the whole text so far."""
        eos = self.corpus_tokenizer.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        texts: list[tuple[int, str]] = []
        own = self.ranks.share(list(enumerate(requests)))
        progress = _Progress(len(own), self.progress)
        for index, request in own:
            context, generation = request.args
            kwargs = greedy_kwargs(request.task_name, generation, self.max_length)
            room = self.max_length - kwargs["max_gen_toks"]
            stop = handle_stop_sequences(kwargs.get("until"), eos=eos)
            tokens = (self.tok_encode(context) or [self.eot_token_id])[-room:]
            text = self._greedy(tokens, kwargs["max_gen_toks"], stop)
            texts.append((index, postprocess_generated_text(text, stop, None)))
            progress.show(len(own) - len(texts))
        return [text for _, text in sorted(self.ranks.gather(texts))]

    @torch.no_grad()
    def _greedy(self, tokens: list[int], max_tokens: int, stop: list[str]) -> str:
        context_length, text = len(tokens), ""
        tokens = list(tokens)
        for _ in range(max_tokens):
            hidden_BLD = self.model(torch.tensor([tokens], device=self.model_device))
            tokens.append(int(self.model.lm_head(hidden_BLD[0, -1:]).argmax()))
            text = self.corpus_tokenizer.tokenizer.decode(tokens[context_length:], skip_special_tokens=True)
            if tokens[-1] == self.eot_token_id or any(word and word in text for word in stop):
                break
        return text


def greedy_kwargs(task: str | None, generation: dict[str, Any], max_length: int) -> Any:
    """A task's generation_kwargs in full. Raises `UserError` for what a model of sequences of `max_length` cannot do
    here."""
    kwargs = normalize_gen_kwargs(generation)
    if kwargs.get("temperature") or kwargs.get("do_sample"):
        raise UserError(
            f"task {task}: asks for sampling, only greedy decoding is done; set `do_sample: false` in "
            "its generation_kwargs, or evaluate through the export"
        )
    if kwargs["max_gen_toks"] >= max_length:
        raise UserError(
            f"task {task}: generates up to {kwargs['max_gen_toks']} tokens, but the model is trained on "
            f"sequences of {max_length}; lower max_gen_toks in its generation_kwargs"
        )
    return kwargs


def _padded(rows: Sequence[_Row], device: torch.device) -> torch.Tensor:
    """Tokens [B, L], filled with 0 on the right, where causal attention never looks from a scored position."""
    tokens_BL = torch.zeros(len(rows), max(len(row.tokens) for row in rows), dtype=torch.int64)
    for row, tokens_L in zip(rows, tokens_BL, strict=True):
        tokens_L[: len(row.tokens)] = torch.tensor(row.tokens)
    return tokens_BL.to(device)


def _starts(lengths: Iterable[int]) -> list[int]:
    starts, total = [], 0
    for length in lengths:
        starts.append(total)
        total += length
    return starts


class _Progress:
    """How many rows are left, on stderr, now and then."""

    def __init__(self, total: int, shown: bool):
        self.total, self.shown = total, shown
        self.next_time = time.monotonic() + _PROGRESS_SECONDS

    def show(self, left: int) -> None:
        if self.shown and left and time.monotonic() >= self.next_time:
            print(f"  {self.total - left:,} of {self.total:,} sequences", file=sys.stderr, flush=True)
            self.next_time = time.monotonic() + _PROGRESS_SECONDS
