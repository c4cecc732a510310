"""Where and how a segment is computed: no field here is part of any identity."""

from dataclasses import dataclass
from typing import Literal

from tst_titan.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Processes, parallel degrees and comfort of one training job.

    `processes` ranks run on each of `nodes` nodes, each with `threads` CPU threads. Parallel degrees follow
    torchtitan's names; `data_parallel_shard` -1 takes the ranks that the others leave. `micro_batch` is the number
    of sequences a data-parallel rank takes through the model at once (0: all of its share of a step; the rest is
    gradient accumulation). A checkpoint is saved every `checkpoint_steps` steps and every `checkpoint_minutes`
    minutes (0: not by that rule), and always at the end and when the job is told to stop.
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
    deterministic: bool = True
    tensorboard: bool = False
    wandb: bool = False

    @property
    def world_size(self) -> int:
        return self.nodes * self.processes

    def batch_degree(self) -> int:
        """Data-parallel degree over which the sequences of a step are split; checks that the degrees fit."""
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
        return shard * self.data_parallel_replicate

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
