"""The parts of Token-Superposition Training as torchtitan components: embedding, loss, dataloader.

Shape suffixes: B sequences, L latent positions, S tokens of a bag, V vocabulary, D model dim, T data tokens of a
window. Each component subclasses torchtitan's own and is chosen by its nested `Config`.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torchtitan.components.loss import BaseLoss
from torchtitan.config import CompileConfig
from torchtitan.distributed.spmd_types import current_spmd_mesh, spmd_mesh_size
from torchtitan.models.common import Embedding
from torchtitan.tools import utils

from tst_titan.data.stream import TokenStream
from tst_titan.errors import UserError
from tst_titan.superposition import (
    Superpose,
    bag_embedding,
    multi_hot_cross_entropy,
    superpose_window,
    tokens_per_position,
    window_length,
)
from tst_titan.train.titan.copies import CopiesAhead
from tst_titan.train.titan.upstream import BaseDataLoader, compile_loss


class BagEmbedding(Embedding):
    """torchtitan's embedding that also takes bags: the mean of a bag's token embeddings (method, section 2).

    `[B, L]` tokens are looked up as by torchtitan; `[B, L, S]` bags become `[B, L, D]`. The same weight and name,
    so a checkpoint loads into a plain `Embedding` for the recovery phase.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Embedding.Config):
        pass

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.ndim == 2:
            return super().forward(input)
        weight_VD = self.weight.to_local() if isinstance(self.weight, DTensor) else self.weight
        if self.tp_group is None:
            return bag_embedding(input, weight_VD)
        # Vocabulary-parallel: each rank sums the tokens it holds; torchtitan's sharding adds the ranks' parts.
        num_ranks = dist.get_world_size(self.tp_group)
        chunk = (self.num_embeddings + num_ranks - 1) // num_ranks
        return bag_embedding(input, weight_VD, vocab_offset=dist.get_rank(self.tp_group) * chunk)


class MultiHotCrossEntropyLoss(BaseLoss):
    """Multi-hot cross-entropy over the next bag (method, section 2), summed over positions and targets.

    The trainer divides the sum by the number of targets, which makes it the mean over positions of
    `-sum_i w_i log softmax(z)[y_i]`: ln V before training, whatever the bag size.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseLoss.Config):
        bag_weighting: str = "uniform"
        """How the targets of a bag are weighted; see `tst_titan.superposition.weights`."""

        global_vocab_size: int | None = None
        """Full vocabulary size, needed where the logits are split over tensor-parallel ranks."""

    def __init__(self, config: Config, *, compile_config: CompileConfig | None = None):
        self.bag_weighting = config.bag_weighting
        self.global_vocab_size = config.global_vocab_size
        self.fn = self._loss
        compile_loss(self, compile_config)

    def _loss(self, pred: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        group = None
        logits_BLV = pred
        if isinstance(pred, DTensor):
            logits_BLV, group = pred.to_local(), pred.device_mesh.get_group("tp")
        elif spmd_mesh_size("tp") > 1:
            group = current_spmd_mesh().get_group("tp")  # type: ignore[union-attr]
        vocab_offset = 0
        if group is not None:
            assert self.global_vocab_size is not None
            vocab_offset = dist.get_rank(group) * -(-self.global_vocab_size // dist.get_world_size(group))
        return multi_hot_cross_entropy(
            logits_BLV,
            labels,
            bag_weighting=self.bag_weighting,
            reduction="sum",
            vocab_group=group,
            vocab_offset=vocab_offset,
        )


class BagDataLoader(BaseDataLoader):
    """Batches of one stage from the token stream: bags or plain tokens, with the labels each of them needs.

    Its state is one number: the data tokens read so far. Which tokens a row gets depends on that number, the seed
    and the row's lane alone, so a run may go on at another number of ranks or in another phase. One batch is made
    ahead in a thread, and on its way to the accelerator, which the state does not see.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        corpus: str = ""
        """The corpus folder (`results/data/CORPUS_ID`)."""
        seed: int = 0
        sequences_per_step: int = 1
        """Sequences of an optimizer step over all ranks: the lanes of the stream."""
        block_tokens: int = 1
        """The unit in which the stream is shuffled."""
        bag_size: int = 1
        superpose: Superpose = "both"
        positions: str = "none"
        """What to give the model as positions (see `positions_of`): "none", "sequence" or "document"."""
        device: str = "cpu"
        """The type of device that trains: copies to an accelerator begin as soon as a batch is made."""

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int,
        dp_rank: int,
        seq_len: int,
        local_batch_size: int,
        **kwargs: Any,
    ):
        self.config = config
        self.seq_len = seq_len
        self.local_batch_size = local_batch_size
        rows = config.sequences_per_step // dp_world_size
        self.first_lane = dp_rank * rows
        self.microbatches_per_step = rows // local_batch_size
        self.stream = TokenStream(
            Path(config.corpus),
            seed=config.seed,
            num_lanes=config.sequences_per_step,
            block_tokens=config.block_tokens,
        )
        self.window_length = window_length(seq_len, config.bag_size, config.superpose)
        self.tokens_per_step = (
            config.sequences_per_step * seq_len * tokens_per_position(config.bag_size, config.superpose)
        )
        self.data_tokens = 0
        self.microbatch = 0
        self.copies = None if config.device == "cpu" else CopiesAhead(utils.get_local_device())

    def batch(self, data_tokens: int, microbatch: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Microbatch number `microbatch` of this rank at stream position `data_tokens`."""
        first = self.first_lane + microbatch * self.local_batch_size
        windows = self.stream.windows(data_tokens, self.window_length, slice(first, first + self.local_batch_size))
        inputs, labels = superpose_window(
            torch.from_numpy(windows), self.seq_len, self.config.bag_size, self.config.superpose
        )
        batch = {"input": inputs, **positions_of(inputs, self.config.positions, self.stream.corpus.eos_id)}
        if self.copies:
            return {name: self.copies.start(value) for name, value in batch.items()}, self.copies.start(labels)
        return batch, labels

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        def after(data_tokens: int, microbatch: int) -> tuple[int, int]:
            if microbatch + 1 < self.microbatches_per_step:
                return data_tokens, microbatch + 1
            return data_tokens + self.tokens_per_step, 0

        with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
            ahead: Future[Any] = thread.submit(self.batch, self.data_tokens, self.microbatch)
            while True:
                batch = ahead.result()
                self.data_tokens, self.microbatch = after(self.data_tokens, self.microbatch)
                ahead = thread.submit(self.batch, self.data_tokens, self.microbatch)
                yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"data_tokens": self.data_tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not state_dict:
            return
        self.data_tokens = state_dict["data_tokens"]
        if self.data_tokens % self.config.sequences_per_step:
            raise UserError(
                f"the checkpoint stands at data token {self.data_tokens}, which is no whole step of "
                f"{self.config.sequences_per_step} sequences: it belongs to another run"
            )


def positions_of(inputs: torch.Tensor, kind: str, eos_id: int) -> dict[str, torch.Tensor]:
    """The batch entry `positions` `[B, L]` for inputs `[B, L]` or `[B, L, S]`.

    "none": no entry; the model counts positions itself. "sequence": 0 to L - 1, which context parallelism needs, since
    a rank holds pieces of a sequence only. "document": counted anew from each document's start, from which
    document-masked attention makes its mask.
    """
    if kind == "none":
        return {}
    if kind == "document":
        return {"positions": document_positions(inputs, eos_id)}
    return {"positions": torch.arange(inputs.shape[1]).repeat(inputs.shape[0], 1)}


def document_positions(inputs: torch.Tensor, eos_id: int) -> torch.Tensor:
    """Positions that start anew with each document: `[B, L]` from tokens `[B, L]` or bags `[B, L, S]`.

    A document ends with its `eos_id`. A bag that holds an end belongs to the document that ends in it; what
    follows in the same bag is taken with it, and the next bag starts the new document.
    """
    ends_BL = (inputs == eos_id).any(-1) if inputs.ndim == 3 else inputs == eos_id
    index_L = torch.arange(ends_BL.shape[1], device=inputs.device)
    starts_BL = torch.zeros_like(ends_BL, dtype=torch.int64)
    starts_BL[:, 1:] = torch.where(ends_BL[:, :-1], index_L[1:], 0)
    return index_L - torch.cummax(starts_BL, dim=1).values
