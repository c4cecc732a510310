"""Seconds and host memory that drawing the initial weights takes each rank, for the published models.

    python benchmarks/initial_weights.py [--models 3B 10B-A1B]

Every rank draws every parameter on one thread, whatever its layout, and keeps its shard. Here the shards lie on torch's
meta device, so that the draws are real and the copies to a GPU are not in the seconds (4 bytes a parameter).
"""

import argparse
import resource
import time

import torch

from tst_titan.plan.trajectory import model_shape
from tst_titan.study.catalogue import MODELS
from tst_titan.study.recipe import Shape
from tst_titan.train.titan.models import model_spec

VOCABULARY = {"llama3": 128_256, "qwen3_moe": 151_936}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["3B", "10B-A1B"])
    names = parser.parse_args().models
    torch.set_num_threads(1)
    for name in names:
        measure(name)


def measure(name: str) -> None:
    shape = Shape.model_validate(MODELS[name]["shape"])
    settings = model_shape(name, shape, VOCABULARY[shape.architecture])
    with torch.device("meta"):
        model = model_spec(settings, seq_len=2048, seed=0).model.build()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    for module in model.modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            with torch.no_grad():
                module._init_param(parameter_name, parameter)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count = sum(parameter.numel() for parameter in model.parameters())
    grew = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{name}: {count / 1e9:.2f}B parameters: {cpu:.1f} s of CPU time ({wall:.1f} s by wall clock), "
        f"{cpu / count * 1e9:.1f} ns a parameter; {grew:.0f} MiB of host memory",
        flush=True,
    )


if __name__ == "__main__":
    main()
