"""Build published models on the meta device in the layouts of their recipes, one rank of torchtitan's fake backend.

    python tests/fake_layouts.py MODEL LAYOUT [MODEL LAYOUT ...]

Prints one JSON line a layout: bytes of this rank's weights, number of parameters, and how many are sharded.
"""

import json
import os
import sys

import torch
import torch.distributed as dist
from training import published_recipe

import tst_titan.train.titan  # noqa: F401
from tst_titan.train.layouts import layout


def build(model_name: str, layout_name: str) -> dict[str, int | str]:
    from torchtitan.config import CommConfig, CompileConfig, TrainingConfig
    from torchtitan.distributed import ParallelDims
    from torchtitan.distributed import utils as dist_utils
    from torchtitan.trainer import Trainer

    from tst_titan.train.titan.config import activation_checkpoint, parallelism_config
    from tst_titan.train.titan.models import model_spec

    recipe, hardware = published_recipe(model_name), layout(model_name, layout_name).hardware
    hardware.check_recipe(recipe)
    os.environ["NGPU"] = str(hardware.world_size)
    dist_utils.init_distributed(CommConfig(mode="fake_backend"))
    parallelism = parallelism_config(hardware)
    dims = ParallelDims.from_config(parallelism, hardware.world_size)
    dist_utils.set_spmd_backend(parallelism.spmd_backend)
    spec = model_spec(recipe.model, seq_len=recipe.seq_len, seed=0, bags=True)
    training = TrainingConfig(
        seq_len=recipe.seq_len,
        local_batch_size=hardware.local_batch_size(recipe.sequences_per_step),
        disable_cuda_graphs=not hardware.cuda_graphs,
    )
    compile_config = CompileConfig(enable=hardware.compile)
    ac = activation_checkpoint(hardware)
    config = Trainer.Config(
        model_spec=spec,
        training=training,
        parallelism=parallelism,
        compile=compile_config,
        activation_checkpoint=ac,
    )
    spec.model.update_from_config(config=config)
    with torch.device("meta"):
        model = spec.model.build()
    model = spec.parallelize_fn(
        model,
        parallel_dims=dims,
        training=training,
        parallelism=parallelism,
        compile_config=compile_config,
        ac_config=ac,
        dump_folder="",
    )
    parameters = list(model.parameters())
    assert all(parameter.is_meta for parameter in parameters)
    local = sum(parameter.to_local().numel() for parameter in parameters)  # type: ignore[operator]
    dist.destroy_process_group()
    return {
        "layout": f"{model_name} {layout_name}",
        "ranks": hardware.world_size,
        "local": local,
        "total": sum(parameter.numel() for parameter in parameters),
        "meshes": sorted({str(parameter.device_mesh.mesh_dim_names) for parameter in parameters}),  # type: ignore[attr-defined]
    }


if __name__ == "__main__":
    names = sys.argv[1:]
    for model_name, layout_name in zip(names[::2], names[1::2], strict=True):
        print(json.dumps(build(model_name, layout_name)), flush=True)
