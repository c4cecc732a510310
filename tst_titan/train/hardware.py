"""Where and how a segment is computed: no field here is part of any identity."""

from dataclasses import dataclass
from typing import Literal

from tst_titan.errors import UserError
from tst_titan.plan.settings import Recipe


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Processes, parallel degrees and comfort of one training job.

    `processes` ranks run on each of `nodes` nodes, each with `threads` CPU threads. Parallel degrees follow
    torchtitan's names; `data_parallel_shard` -1 takes the ranks that the others leave. `micro_batch` is the number
    of sequences a data-parallel rank takes through the model at once (0: all of its share of a step; for GPUs
    `tst_titan.train.fit` puts what they hold there); the rest is gradient accumulation.
    A checkpoint is saved every `checkpoint_steps` steps and every `checkpoint_minutes` minutes (0: not by that rule),
    and always at the end and when the job is told to stop; the last two are kept. `async_checkpoints` copies the state
    into host memory and writes it while training goes on. A job of Slurm stops by itself `stop_seconds` before its time
    limit (0: as long as it takes, `tst_titan.train.time_bounds`).
    """

    nodes: int = 1
    processes: int = 1
    threads: int = 1
    micro_batch: int = 0
    data_parallel_replicate: int = 1
    data_parallel_shard: int = -1
    tensor_parallel: int = 1
    context_parallel: int = 1
    expert_parallel: int = 1
    compile: bool = False
    cuda_graphs: bool = False
    activation_checkpoint: Literal["none", "selective", "full"] = "none"
    loss_chunks: int = 1
    checkpoint_steps: int = 0
    checkpoint_minutes: float = 10.0
    async_checkpoints: bool = False
    stop_seconds: float = 0.0
    deterministic: bool = True
    tensorboard: bool = False
    wandb: bool = False

    @property
    def world_size(self) -> int:
        return self.nodes * self.processes

    def batch_degree(self) -> int:
        """Data-parallel degree over which the sequences of a step are split; checks that the degrees fit."""
        return self.shard_degree() * self.data_parallel_replicate

    def shard_degree(self) -> int:
        """Ranks over which FSDP shards one replica along the batch; checks that the degrees multiply to the ranks."""
        fixed = self.tensor_parallel * self.context_parallel * self.data_parallel_replicate
        shard = self.data_parallel_shard
        if min(fixed, self.expert_parallel, self.nodes, self.processes) < 1 or (shard < 1 and shard != -1):
            raise UserError("hardware: every parallel degree is at least 1 (data_parallel_shard: or -1)")
        if shard == -1:
            shard, rest = divmod(self.world_size, fixed)
            if rest or not shard:
                raise UserError(
                    f"hardware: {self.nodes} nodes x {self.processes} processes = {self.world_size} ranks cannot be "
                    f"divided by tensor_parallel x context_parallel x data_parallel_replicate = {fixed}"
                )
        elif fixed * shard != self.world_size:
            raise UserError(
                f"hardware: the parallel degrees multiply to {fixed * shard}, but {self.nodes} nodes x "
                f"{self.processes} processes are {self.world_size} ranks; data_parallel_shard: -1 takes what is left"
            )
        return shard

    def local_batch_size(self, sequences_per_step: int) -> int:
        """Sequences that one rank takes through the model at once."""
        degree = self.batch_degree()
        share, rest = divmod(sequences_per_step, degree)
        if rest:
            raise UserError(
                f"hardware: {sequences_per_step} sequences a step cannot be split over {degree} data-parallel ranks; "
                "use a number of ranks that divides it"
            )
        micro_batch = self.micro_batch or share
        if share % micro_batch:
            raise UserError(
                f"hardware: micro_batch {micro_batch} does not divide the {share} sequences of each rank's step"
            )
        return micro_batch

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise one `UserError` for the first thing of `recipe` that these degrees cannot split."""
        model, tensor, context, expert = (
            recipe.model,
            self.tensor_parallel,
            self.context_parallel,
            self.expert_parallel,
        )
        self.local_batch_size(recipe.sequences_per_step)
        if self.cuda_graphs and self.deterministic:
            raise UserError(
                "hardware: cuda_graphs cannot be used with deterministic: true, whose kernels may wait for the host, "
                "which no graph allows; use deterministic: false or cuda_graphs: false"
            )
        sizes = {
            "attention heads": model.num_heads,
            "key-value heads": model.num_kv_heads,
            "vocabulary entries": model.vocab_size,
            **({"FFN units": model.ffn_dim} if model.moe is None else {}),
            **({"FFN units of an expert": model.moe.expert_ffn_dim} if model.moe and expert == 1 else {}),
        }
        for what, size in sizes.items():
            if size % tensor:
                raise UserError(
                    f"hardware: tensor_parallel {tensor} cannot split the {size} {what} of model {model.name}; use a "
                    "degree that divides them"
                )
        pieces = tensor * (2 * context if context > 1 else 1)
        if recipe.seq_len % pieces:
            raise UserError(
                f"hardware: tensor_parallel {tensor} and context_parallel {context} cut a sequence into {pieces} "
                f"pieces, which does not divide seq_len {recipe.seq_len}"
            )
        if self.loss_chunks < 1 or recipe.seq_len // context % self.loss_chunks:
            raise UserError(
                f"hardware: loss_chunks {self.loss_chunks} does not divide the {recipe.seq_len // context} positions "
                "that a rank holds of a sequence"
            )
        if context > 1 and recipe.attention == "document":
            raise UserError(
                "hardware: context_parallel cannot be used with attention: document; use attention: causal or "
                "context_parallel: 1"
            )
        if expert > 1:
            self._check_experts(recipe)

    def _check_experts(self, recipe: Recipe) -> None:
        expert, moe = self.expert_parallel, recipe.model.moe
        if moe is None:
            raise UserError(
                f"hardware: expert_parallel {expert}, but model {recipe.model.name} has no experts; use "
                "expert_parallel: 1"
            )
        if moe.num_experts % expert:
            raise UserError(
                f"hardware: expert_parallel {expert} cannot split the {moe.num_experts} experts of model "
                f"{recipe.model.name}; use a degree that divides them"
            )
        ranks = self.shard_degree() * self.context_parallel * self.tensor_parallel
        if ranks % expert:
            raise UserError(
                f"hardware: expert_parallel {expert} does not divide the {ranks} ranks of one replica "
                "(data_parallel_shard x context_parallel x tensor_parallel), which hold its experts"
            )
        if self.cuda_graphs:
            raise UserError(
                "hardware: cuda_graphs cannot be used with expert_parallel, whose dispatch waits for counts on the "
                "host; use cuda_graphs: false"
            )
