"""A segment and its hardware as one torchtitan configuration."""

import math

import torch
from torchtitan.components.loss import BaseLoss, ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw
from torchtitan.config import CommConfig, CompileConfig, DebugConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import ActivationCheckpointing, FullAC, SelectiveAC

from tst_titan.plan.costs import flops_per_position
from tst_titan.plan.settings import Recipe, Segment
from tst_titan.results import CorpusFiles
from tst_titan.train.hardware import Hardware
from tst_titan.train.job import Job
from tst_titan.train.measured import measured
from tst_titan.train.titan.checkpoints import SegmentCheckpoints
from tst_titan.train.titan.components import BagDataLoader, MultiHotCrossEntropyLoss
from tst_titan.train.titan.device import DEVICE_TYPE
from tst_titan.train.titan.metrics import SegmentMetrics
from tst_titan.train.titan.models import Float8, model_spec
from tst_titan.train.titan.trainer import SegmentTrainer
from tst_titan.train.titan.validator import HeldOutDataLoader, PlainValidator


def trainer_config(job: Job) -> SegmentTrainer.Config:
    """The resolved configuration of a job (`torchtitan.json`).

    Recovery and decay are plain torchtitan over the same loader: neither the bag embedding nor the multi-hot loss
    is in their configuration.
    """
    segment, recipe, hardware = job.segment, job.segment.recipe, job.hardware
    bounds = measured(job)
    return SegmentTrainer.Config(
        model_spec=model_spec(
            recipe.model,
            seq_len=recipe.seq_len,
            # A segment with a parent draws no weights: it always loads its parent's or its own.
            seed=None if job.parent_checkpoint else recipe.seed,
            attention=recipe.attention,
            bags=is_superposed(segment) and segment.stage.superpose != "output",
            float8=_float8(recipe, hardware),
        ),
        dump_folder=str(job.folder),
        hf_assets_path=str(CorpusFiles(job.corpus_dir).tokenizer),
        loss=loss_config(segment, hardware),
        optimizer=_optimizer(recipe),
        lr_scheduler=lr_scheduler(segment),
        training=training_config(segment, hardware),
        dataloader=_dataloader(job),
        parallelism=parallelism_config(hardware),
        checkpoint=_checkpoints(job),
        checkpoint_minutes=hardware.checkpoint_minutes,
        longest_wait=bounds.longest_start,
        metrics=_metrics(job),
        validator=_validator(job),
        activation_checkpoint=activation_checkpoint(hardware),
        compile=CompileConfig(enable=hardware.compile),
        comm=CommConfig(
            trace_buf_size=0 if DEVICE_TYPE == "cpu" else 20000,
            init_timeout_seconds=math.ceil(bounds.longest_start),
            train_timeout_seconds=math.ceil(bounds.longest_wait),
        ),
        debug=DebugConfig(seed=recipe.seed, deterministic=hardware.deterministic, save_config_file="torchtitan.json"),
    )


def is_superposed(segment: Segment) -> bool:
    """Whether the segment's stage takes bags in, or has bags to predict."""
    return segment.stage.name == "superposition"


def loss_config(segment: Segment, hardware: Hardware) -> BaseLoss.Config:
    """What the segment's stage trains on: bags of targets in superposition, single tokens else."""
    recipe, stage = segment.recipe, segment.stage
    if not is_superposed(segment) or stage.superpose == "input":
        return plain_loss_config(recipe, hardware)
    loss = MultiHotCrossEntropyLoss.Config(bag_weighting=stage.bag_weighting, global_vocab_size=recipe.model.vocab_size)
    return _in_chunks(loss, hardware)


def plain_loss_config(recipe: Recipe, hardware: Hardware) -> BaseLoss.Config:
    """Cross-entropy of the next token, on which every stage is validated."""
    return _in_chunks(CrossEntropyLoss.Config(global_vocab_size=recipe.model.vocab_size), hardware)


def _in_chunks(loss: BaseLoss.Config, hardware: Hardware) -> BaseLoss.Config:
    """Logits made and used a part of the positions at a time, where the hardware says so."""
    if hardware.loss_chunks <= 1:
        return loss
    return ChunkedLossWrapper.Config(num_chunks=hardware.loss_chunks, loss_fn=loss)


def training_config(segment: Segment, hardware: Hardware) -> TrainingConfig:
    """Batches, steps and precision."""
    recipe = segment.recipe
    return TrainingConfig(
        local_batch_size=hardware.local_batch_size(recipe.sequences_per_step),
        global_batch_size=recipe.sequences_per_step,
        seq_len=recipe.seq_len,
        max_norm=recipe.max_grad_norm,
        steps=segment.end_step,
        disable_cuda_graphs=not hardware.cuda_graphs,
        mixed_precision_param="float32" if recipe.precision == "float32" else "bfloat16",
    )


def _bag_size(segment: Segment) -> int:
    return segment.stage.bag_size if is_superposed(segment) else 1


def _positions(recipe: Recipe, hardware: Hardware) -> str:
    """What the model is given as positions (`tst_titan.train.titan.components.positions_of`)."""
    if hardware.context_parallel > 1:
        return "sequence"
    return "document" if recipe.attention == "document" else "none"


def _dataloader(job: Job) -> BagDataLoader.Config:
    segment, recipe = job.segment, job.segment.recipe
    return BagDataLoader.Config(
        corpus=str(job.corpus_dir),
        seed=recipe.seed,
        sequences_per_step=recipe.sequences_per_step,
        block_tokens=recipe.block_tokens,
        bag_size=_bag_size(segment),
        superpose=segment.stage.superpose if is_superposed(segment) else "both",
        positions=_positions(recipe, job.hardware),
        device=DEVICE_TYPE,
    )


def _checkpoints(job: Job) -> SegmentCheckpoints.Config:
    segment, recipe, stage, hardware = job.segment, job.segment.recipe, job.segment.stage, job.hardware
    return SegmentCheckpoints.Config(
        enable=True,
        folder=job.checkpoints.name,
        interval=hardware.checkpoint_steps or segment.end_step + 1,
        keep_latest_k=2,
        async_mode="async" if hardware.async_checkpoints else "disabled",
        last_save_model_only=False,
        initial_load_path=str(job.parent_checkpoint) if job.parent_checkpoint else None,
        initial_load_model_only=False,
        segment=segment.id,
        parent=segment.parent,
        expected_start=(segment.start_step, segment.data_tokens_at(segment.start_step)),
        # Only where the stage itself begins: a later job of a split stage goes on as it is.
        reinit_seed=(recipe.seed if stage.reinit_embeddings and segment.start_step == stage.start_step else None),
    )


def _metrics(job: Job) -> SegmentMetrics.Config:
    segment, recipe, stage, hardware = job.segment, job.segment.recipe, job.segment.stage, job.hardware
    return SegmentMetrics.Config(
        log_freq=job.log_every,
        disable_color_printing=True,
        enable_tensorboard=hardware.tensorboard,
        enable_wandb=hardware.wandb,
        file=str(job.files.metrics),
        phase=stage.name,
        bag_size=_bag_size(segment),
        start_step=segment.start_step,
        end_step=segment.end_step,
        stage_start_step=stage.start_step,
        data_tokens_at_stage_start=segment.data_tokens_at(stage.start_step),
        equivalent_tokens_per_step=recipe.tokens_per_step,
        data_tokens_per_step=recipe.tokens_per_step * stage.data_tokens_per_position,
        flops_per_equivalent_token=flops_per_position(recipe.model, recipe.seq_len),
    )


def _validator(job: Job) -> PlainValidator.Config:
    segment, recipe, hardware = job.segment, job.segment.recipe, job.hardware
    return PlainValidator.Config(
        enable=True,
        freq=job.validate_every or segment.end_step + 1,
        end_step=segment.end_step,
        loss=plain_loss_config(recipe, hardware),
        dataloader=HeldOutDataLoader.Config(
            corpus=str(job.corpus_dir),
            max_tokens=job.validation_tokens,
            positions=_positions(recipe, hardware),
        ),
    )


def lr_scheduler(segment: Segment) -> LRSchedulersContainer.Config:
    """Warmup then constant for every stage but "decay", which is the tail of Warmup-Stable-Decay.

    The schedule is a function of the step alone, so it is continuous across segments of one run.
    """
    recipe, stage = segment.recipe, segment.stage
    if stage.name != "decay":
        return LRSchedulersContainer.Config(
            warmup_steps=recipe.warmup_steps,
            total_steps=max(segment.end_step, recipe.warmup_steps),
            decay_ratio=0.0,
        )
    return LRSchedulersContainer.Config(
        warmup_steps=recipe.warmup_steps,
        total_steps=stage.decay_end_step,
        decay_ratio=(stage.decay_end_step - stage.start_step) / stage.decay_end_step,
        decay_type="linear",
        min_lr_factor=stage.decay_to,
    )


def _float8(recipe: Recipe, hardware: Hardware) -> Float8 | None:
    if recipe.precision != "float8":
        return None
    return Float8(compile=hardware.compile)


def _optimizer(recipe: Recipe):  # type: ignore[no-untyped-def]
    return default_adamw(
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.adam_eps,
        weight_decay=recipe.weight_decay,
    )


def activation_checkpoint(hardware: Hardware) -> ActivationCheckpointing.Config | None:
    """What torchtitan recomputes instead of keeping."""
    return {"none": None, "selective": SelectiveAC.Config(), "full": FullAC.Config()}[hardware.activation_checkpoint]


def parallelism_config(hardware: Hardware) -> ParallelismConfig:
    """The parallel degrees under torchtitan's names."""
    # Before torch 2.15 the default "spmd_types" works on one rank only.
    old_torch = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 15)
    return ParallelismConfig(
        data_parallel_replicate_degree=hardware.data_parallel_replicate,
        data_parallel_shard_degree=hardware.data_parallel_shard,
        tensor_parallel_degree=hardware.tensor_parallel,
        context_parallel_degree=hardware.context_parallel,
        expert_parallel_degree=hardware.expert_parallel,
        spmd_backend="partial_dtensor" if old_torch and hardware.world_size > 1 else "spmd_types",
    )
