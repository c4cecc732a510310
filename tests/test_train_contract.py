"""What `tst_titan/train/titan` relies on in torchtitan 0.3.0, hook by hook.

A failure here says what moved in torchtitan, before a training run fails somewhere else. After an upgrade: mend the
code that the message names, then the expectation.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from importlib.metadata import version
from typing import Any

import pytest

import tst_titan.train.titan  # noqa: F401  (makes torchtitan importable on this machine)
from tst_titan.train.titan.upstream import LOSS_NOT_FINITE, NAMES


def find(path: str) -> Any:
    """The object at `module:name.name`; fails with what is missing."""
    module, _, names = path.partition(":")
    try:
        value = importlib.import_module(module)
    except ImportError as error:
        pytest.fail(f"torchtitan moved: module {module} cannot be imported ({error})")
    for name in filter(None, names.split(".")):
        if not hasattr(value, name):
            pytest.fail(f"torchtitan moved: {path} does not exist")
        value = getattr(value, name)
    return value


def test_the_version_is_the_pinned_one() -> None:
    assert version("torchtitan") == "0.3.0", "pyproject.toml pins torchtitan 0.3.0; these tests describe that version"


# Methods that we override or call: the parameters that must exist, in this order.
SIGNATURES = {
    # trainer.py, worker.py
    "torchtitan.trainer:Trainer.__init__": "self config",
    "torchtitan.trainer:Trainer.train": "self",
    "torchtitan.trainer:Trainer.train_step": "self data_iterator",
    "torchtitan.trainer:Trainer.forward_backward_step": "self input_dict labels global_valid_tokens",
    "torchtitan.trainer:Trainer.should_continue_training": "self",
    "torchtitan.trainer:Trainer.batch_generator": "self data_iterable",
    "torchtitan.trainer:Trainer.close": "self",
    # upstream.py, checkpoints.py
    "torchtitan.components.checkpointer:CheckpointManager.__init__": "self config",
    "torchtitan.components.checkpointer:CheckpointManager._load": "self step",
    "torchtitan.components.checkpointer:CheckpointManager._save": "self curr_step last_step",
    "torchtitan.components.checkpointer:CheckpointManager._should_save": "self curr_step last_step",
    "torchtitan.components.checkpointer:CheckpointManager._find_load_step": "self folder",
    "torchtitan.components.checkpointer:CheckpointManager._create_checkpoint_id": "self step folder",
    "torchtitan.components.checkpointer:CheckpointManager.load": "self step",
    "torchtitan.components.checkpointer:CheckpointManager.save": "self curr_step last_step",
    "torchtitan.components.checkpointer:CheckpointManager.dcp_load": (
        "self state_dict checkpoint_id from_hf from_quantized"
    ),
    "torchtitan.components.checkpointer:CheckpointManager.dcp_save": (
        "self state_dict checkpoint_id async_mode enable_garbage_collection to_hf"
    ),
    "torchtitan.tools.utils:GarbageCollection.collect": "reason",
    "torchtitan.components.checkpointer:CheckpointManager._purge_stale_checkpoints": "self",
    "torchtitan.components.checkpointer:CheckpointManager.maybe_wait_for_staging": "self",
    "torchtitan.components.checkpointer:CheckpointManager.maybe_wait_for_saving": "self",
    "torchtitan.components.checkpointer:CheckpointManager._close": "self",
    "torchtitan.components.checkpointer:ModelWrapper._get_state_dict": "self",
    # components.py
    "torchtitan.models.common:Embedding.__init__": "self config",
    "torchtitan.models.common:Embedding.forward": "self input",
    "torchtitan.components.loss:BaseLoss.__init__": "self config compile_config",
    "torchtitan.components.loss:BaseLoss._maybe_compile": "self compile_config",
    "torchtitan.components.loss:BaseLoss.__call__": "self pred labels global_valid_tokens",
    "torchtitan.components.loss:ChunkedLossWrapper.set_lm_head": "self lm_head",
    "torchtitan.distributed.spmd_types:current_spmd_mesh": "",
    "torchtitan.distributed.spmd_types:spmd_mesh_size": "axis_name",
    # metrics.py
    "torchtitan.components.metrics:MetricsProcessor.__init__": "self config parallel_dims dump_folder",
    "torchtitan.components.metrics:MetricsProcessor.log": "self step global_avg_loss global_max_loss grad_norm extra_metrics",  # noqa: E501
    "torchtitan.components.metrics:MetricsProcessor.log_validation": "self loss step extra_metrics",
    "torchtitan.components.metrics:MetricsProcessor.should_log": "self step",
    # validator.py
    "torchtitan.components.validate:Validator.__init__": (
        "self config parallelism dp_world_size dp_rank tokenizer parallel_dims loss_fn validation_context "
        "metrics_processor seq_len local_batch_size"
    ),
    "torchtitan.components.validate:Validator.should_validate": "self step",
    "torchtitan.components.validate:Validator.validate": "self model_parts step",
    # models.py
    "torchtitan.models.llama3:parallelize_llama": (
        "model parallel_dims training parallelism compile_config ac_config dump_folder"
    ),
    "torchtitan.models.qwen3:parallelize_qwen3": (
        "model parallel_dims training parallelism compile_config ac_config dump_folder"
    ),
    "torchtitan.components.optimizer:register_moe_load_balancing_hook": "optimizers model_parts parallel_dims",
    "torchtitan.protocols.module:Module._init_self_buffers": "self buffer_device",
    "torchtitan.protocols.module:Module._init_param": "self name param",
    "torchtitan.models.common.moe:GroupedExperts.forward": "self x_RD num_tokens_per_expert_E",
    "torchtitan.models.common.moe:GroupedExperts._grouped_mm": "self A B_t offs",
    "torchtitan.models.common.decoder:Decoder.get_attention_masks": "self positions",
    "torchtitan.models.common.param_init:depth_scaled_std": "base_std layer_id",
    # device.py
    "torchtitan.tools.utils:get_local_device": "",
}


@pytest.mark.parametrize("path", SIGNATURES)
def test_methods_take_what_we_pass(path: str) -> None:
    wanted = SIGNATURES[path].split()
    parameters = [
        name
        for name, parameter in inspect.signature(inspect.unwrap(find(path))).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    missing = [name for name in wanted if name not in parameters]
    assert not missing, f"torchtitan moved: {path} no longer takes {missing}, its parameters are {parameters}"
    positional = [name for name in parameters if name in wanted]
    assert positional == wanted, f"torchtitan moved: {path} takes {positional}, not in the order {wanted}"


# Fields of configurations that we set or inherit.
FIELDS = {
    "torchtitan.trainer:Trainer.Config": (
        "model_spec dump_folder hf_assets_path loss optimizer lr_scheduler training dataloader parallelism checkpoint "
        "metrics validator activation_checkpoint compile comm debug"
    ),
    "torchtitan.config:TrainingConfig": (
        "local_batch_size global_batch_size seq_len max_norm steps disable_cuda_graphs mixed_precision_param "
        "mixed_precision_reduce"
    ),
    "torchtitan.config:ParallelismConfig": (
        "data_parallel_replicate_degree data_parallel_shard_degree tensor_parallel_degree context_parallel_degree "
        "expert_parallel_degree spmd_backend context_parallel_load_balancer"
    ),
    "torchtitan.config:CommConfig": "trace_buf_size init_timeout_seconds train_timeout_seconds mode",
    "torchtitan.config:CompileConfig": "enable components",
    "torchtitan.config:DebugConfig": "seed deterministic save_config_file",
    "torchtitan.components.checkpointer:CheckpointManager.Config": (
        "enable folder interval keep_latest_k last_save_model_only initial_load_path initial_load_model_only async_mode"
    ),
    "torchtitan.components.metrics:MetricsProcessor.Config": (
        "log_freq disable_color_printing enable_tensorboard enable_wandb save_tb_folder"
    ),
    "torchtitan.components.validate:Validator.Config": "enable freq steps dataloader",
    "torchtitan.components.optimizer:LRSchedulersContainer.Config": (
        "warmup_steps total_steps decay_ratio decay_type min_lr_factor"
    ),
    "torchtitan.components.loss:ChunkedLossWrapper.Config": "num_chunks loss_fn",
    "torchtitan.components.loss:CrossEntropyLoss.Config": "global_vocab_size",
    "torchtitan.protocols.model_spec:ModelSpec": (
        "name flavor model parallelize_fn pipelining_fn post_optimizer_build_fn state_dict_adapter"
    ),
    "torchtitan.protocols.module:Module.Config": "param_init sharding_config",
    "torchtitan.models.common.decoder:Decoder.Config": (
        "dim vocab_size lm_head tok_embeddings norm layers enable_weight_tying"
    ),
    "torchtitan.models.common.decoder:TransformerBlock.Config": "attention feed_forward moe attention_norm ffn_norm",
    "torchtitan.models.common.moe:GroupedExperts.Config": "dim hidden_dim num_experts param_init",
    "torchtitan.models.common.moe:MoE.Config": "num_experts routed_experts router load_balance_coeff",
    "torchtitan.models.common.moe:RoutedExperts.Config": "inner_experts token_dispatcher",
    "torchtitan.components.quantization:Float8LinearConverter.Config": (
        "recipe_name filter_fqns emulate model_compile_enabled"
    ),
    "torchtitan.components.quantization:Float8GroupedExpertsConverter.Config": "model_compile_enabled",
}


@pytest.mark.parametrize("path", FIELDS)
def test_configurations_have_the_fields_that_we_set(path: str) -> None:
    fields = {field.name for field in dataclasses.fields(find(path))}
    missing = set(FIELDS[path].split()) - fields
    assert not missing, f"torchtitan moved: {path} has no field {sorted(missing)}; it has {sorted(fields)}"


# Attributes that instances get in the code below, read by ours: found in the source, since building costs a trainer.
ATTRIBUTES = {
    "torchtitan.trainer:Trainer": "self.step self.device self.model_parts self.checkpointer self.metrics_processor "
    "self.validator self.dataloader self.optimizers self.lr_schedulers self.loss_fn",
    "torchtitan.components.checkpointer:CheckpointManager": "self.states self.initial_load_path self.folder self.interval "  # noqa: E501
    "self.keep_latest_k self.save_future self.pg",
    "torchtitan.components.metrics:MetricsProcessor": "self.logger self.parallel_dims self.device_memory_monitor "
    "self.has_quantization self.data_loading_times self.time_last_log self.ntokens_since_last_log",
    "torchtitan.models.common:Embedding": "self.tp_group self.num_embeddings",
    "torchtitan.models.common.moe:MoE": "self.tokens_per_expert_E self.expert_bias_E self.load_balance_coeff",
    "torchtitan.components.loss:ChunkedLossWrapper": "self.lm_head self.num_chunks",
}


def attributes_set_in(source: str) -> set[str]:
    """What classes give their instances: `self.name = ...`, a declared `name: type`, a registered buffer or
    parameter."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                found.add(name)
            case ast.ClassDef(body=body):
                found |= {
                    line.target.id
                    for line in body
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
                }
            case ast.Call(
                func=ast.Attribute(attr="register_buffer" | "register_parameter"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                found.add(name)
    return found


@pytest.mark.parametrize("path", ATTRIBUTES)
def test_instances_have_the_attributes_that_we_read(path: str) -> None:
    classes = [cls for cls in find(path).__mro__ if "torchtitan" in cls.__module__]
    found = set().union(*(attributes_set_in(textwrap.dedent(inspect.getsource(cls))) for cls in classes))
    missing = {name.removeprefix("self.") for name in ATTRIBUTES[path].split()} - found
    assert not missing, f"torchtitan moved: {path} no longer sets {sorted(missing)}"


def test_an_attribute_that_is_only_read_or_spoken_of_is_none_that_instances_have() -> None:
    source = """
class Trainer:
    declared: int

    def __init__(self):
        "Sets self.spoken."
        self.set, self.second = 1, self.read
        self.register_buffer("buffer", None)
        local = self.called()
"""
    assert attributes_set_in(source) == {"declared", "set", "second", "buffer"}


def has(owner: Any, name: str) -> bool:
    """Whether a class or module has `name`, or a class gives it to its instances."""
    if hasattr(owner, name):
        return True
    classes = [cls for cls in getattr(owner, "__mro__", ()) if "torchtitan" in cls.__module__]
    return any(name in attributes_set_in(textwrap.dedent(inspect.getsource(cls))) for cls in classes)


@pytest.mark.parametrize("path", NAMES)
def test_what_may_move_is_where_upstream_takes_it_from(path: str) -> None:
    """A class that has moved, a private name that is gone: `train/titan/upstream.py` alone has to be mended."""
    owner, name = re.fullmatch(r"(.+)[.:](\w+)", path).groups()  # type: ignore[union-attr]
    assert has(find(owner), name), f"torchtitan moved: {path} ({NAMES[path]})"


def assert_order(source: str, *steps: str, owner: str) -> None:
    place = 0
    for step in steps:
        found = re.compile(step).search(source, place)
        assert found, f"torchtitan moved: {owner} has no `{step}`" + (
            f" after `{steps[steps.index(step) - 1]}`" if place else ""
        )
        place = found.end()


def test_the_training_loop_goes_through_our_hooks_in_this_order() -> None:
    """Loaded before the first batch; asked to go on before each step; saved before validated."""
    assert_order(
        inspect.getsource(inspect.unwrap(find("torchtitan.trainer:Trainer.train"))),
        r"self\.checkpointer\.load\(",
        r"self\.batch_generator\(self\.dataloader\)",
        r"while self\.should_continue_training\(\)",
        r"self\.step \+= 1",
        r"self\.train_step\(data_iterator\)",
        r"self\.checkpointer\.save\(",
        r"self\.validator\.should_validate\(",
        r"self\.validator\.validate\(self\.model_parts, self\.step\)",
        owner="Trainer.train",
    )


def test_a_step_counts_targets_then_steps_the_optimizer_then_checks_and_logs() -> None:
    """The loss is divided by the count of labels over all ranks; not finite is raised before it is logged."""
    assert_order(
        inspect.getsource(inspect.unwrap(find("torchtitan.trainer:Trainer.train_step"))),
        r"local_valid_tokens \+= \(labels != IGNORE_INDEX\)\.sum\(\)",
        r"dist_sum_tensor\(",
        r"for microbatches in microbatch_groups",
        r"self\.forward_backward_step\(",
        r"self\.optimizers\.step\(\)",
        r"self\.lr_schedulers\.step\(\)",
        LOSS_NOT_FINITE,
        r"self\.metrics_processor\.log\(",
        owner="Trainer.train_step",
    )


def test_the_trainer_builds_in_this_order() -> None:
    """Sharded first and initialized then; routing hooks after the optimizer; the checkpointer after the loader."""
    assert_order(
        inspect.getsource(inspect.unwrap(find("torchtitan.trainer:Trainer.__init__"))),
        r"model_config\.update_from_config\(",
        r"model_spec\.parallelize_fn\(",
        r"model\.to_empty\(",
        r"\.init_weights\(",
        r"config\.optimizer\.build\(",
        r"model_spec\.post_optimizer_build_fn\(",
        r"config\.dataloader\.build\(",
        r"config\.checkpoint\.build\(",
        r"config\.validator\.build\(",
        owner="Trainer.__init__",
    )


def test_an_expert_bias_is_moved_by_position_counts_that_are_then_cleared() -> None:
    """Our statistics read the counts in a hook that was registered earlier."""
    assert_order(
        inspect.getsource(find("torchtitan.components.optimizer:register_moe_load_balancing_hook")),
        r"\.tokens_per_expert_E",
        r"// 2",
        r"ReduceOp\.SUM",
        r"expert_bias_E\.add_\(",
        r"tokens_per_expert_E\.zero_\(\)",
        r"register_step_pre_hook",
        owner="register_moe_load_balancing_hook",
    )


def test_initializers_are_called_with_the_parameter_alone() -> None:
    assert find("torchtitan.protocols.module:Module")._param_init is None
    assert_order(
        inspect.getsource(find("torchtitan.protocols.module:Module._init_param")),
        r"self\._param_init\[name\]\(param\)",
        owner="Module._init_param",
    )


def test_the_device_is_looked_up_where_we_replace_it() -> None:
    for name in ("device_type", "device_module"):
        find(f"torchtitan.tools.utils:{name}")


@pytest.mark.parametrize(
    "path",
    [
        "torchtitan.components.checkpointer:AsyncMode.ASYNC",
        "torchtitan.components.checkpointer.base:MODEL",
        "torchtitan.components.checkpointer.base:OPTIMIZER",
        "torchtitan.components.checkpointer.base:DATALOADER",
        "torchtitan.components.checkpointer.base:TRAIN_STATE",
        "torchtitan.components.loss:IGNORE_INDEX",
        "torchtitan.distributed.activation_checkpoint:SelectiveAC.Config",
        "torchtitan.distributed.activation_checkpoint:FullAC.Config",
        "torchtitan.distributed.pipeline_parallel:pipeline_llm",
        "torchtitan.models.common.attention:ScaledDotProductAttention.Config",
        "torchtitan.models.common.attention:FlexAttention.Config",
        "torchtitan.models.common.config_utils:make_gqa_config",
        "torchtitan.models.common.config_utils:make_routed_experts_config",
        "torchtitan.models.common.token_dispatcher:AllToAllTokenDispatcher.Config",
        "torchtitan.models.llama3.state_dict_adapter:Llama3StateDictAdapter.to_hf",
        "torchtitan.models.qwen3.state_dict_adapter:Qwen3StateDictAdapter.to_hf",
        "torchtitan.components.metrics:WandBLogger",
        "torchtitan.components.metrics:TensorBoardLogger",
    ],
)
def test_names_are_where_we_import_them(path: str) -> None:
    find(path)
