"""What only the nodes know: whether they see the shared folders and the Python environment, and whether its torch sees
their GPUs.

One small Slurm job asks them.

The answers come through srun, so that a node that sees no shared folder can still say so.
"""

import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tst_titan.cluster.slurm import complete
from tst_titan.errors import UserError
from tst_titan.files import write_text

# On a node: arguments are the token, the Python and the folders. Prints one line for each thing that is wrong, one for
# what the node has, then "asked".
_NODE_SCRIPT = r"""
token=$1 python=$2; shift 2; node=${SLURMD_NODENAME:-$(hostname)}
for folder in "$@"; do
  if ! [ -r "$folder/.probe-$token" ]; then echo "$node: does not see $folder (or not what this machine writes there)"
  elif ! : > "$folder/.probe-$token-$node"; then echo "$node: cannot write to $folder"
  fi
done 2>/dev/null
if ! [ -x "$python" ]; then echo "$node: has no $python: put the virtual environment on the shared file system"
elif ! said=$("$python" -c 'import tst_titan' 2>&1); then echo "$node: $python cannot import tst_titan: $(echo "$said" | tail -n 1)"
elif ! said=$("$python" -m tst_titan.cluster.driver 2>&1); then echo "$node: $(echo "$said" | tail -n 1)"
else echo "$node: ready: $(echo "$said" | tail -n 1)"
fi
echo "$node: asked"
"""  # noqa: E501
# What one node writes may show late on another.
LATENCY_SECONDS = 60.0


def probe_nodes(
    srun_options: Sequence[str], folders: Sequence[Path], python: str = sys.executable
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Ask the nodes that `srun_options` choose; returns the nodes that answered, with their devices, torch and driver,
    and what is wrong, as (node, words).

    Waits in Slurm's queue. `UserError` where Slurm does not run the job.
    """
    token = secrets.token_hex(4)
    paths = [folder.absolute() for folder in folders]
    with ExitStack() as written:
        for path in paths:
            written.callback(_remove, path, token)
            write_text(path / f".probe-{token}", "")
        command = ["srun", "--chdir=/", "--ntasks-per-node=1", "--job-name=tst-titan-probe", *srun_options]
        command += ["sh", "-c", _NODE_SCRIPT, "sh", token, python, *map(str, paths)]
        try:
            run = complete(command, timeout=None)
        except FileNotFoundError:
            raise UserError(
                "srun: not found on PATH; run this on a login node of the cluster (module load slurm?)"
            ) from None
        lines = run.stdout.splitlines()
        nodes = sorted(line.removesuffix(": asked") for line in lines if line.endswith(": asked"))
        has = dict(line.split(": ready: ", 1) for line in lines if ": ready: " in line)
        others = (line for line in lines if not line.endswith(": asked") and ": ready: " not in line)
        problems = sorted((node, words) for node, _, words in (line.partition(": ") for line in others))
        if not nodes:
            raise UserError(
                f"{shlex.join(command[:4] + list(srun_options))}: {' '.join(run.stderr.split()) or 'no node answered'}"
            )
        wrong = {node for node, _ in problems}
        problems += _unseen([path / f".probe-{token}-{node}" for path in paths for node in nodes if node not in wrong])
    return {node: has.get(node, "") for node in nodes}, problems


def _unseen(files: list[Path]) -> list[tuple[str, str]]:
    """What nodes wrote and this machine does not come to see."""
    deadline = time.monotonic() + LATENCY_SECONDS
    while (missing := [file for file in files if not file.exists()]) and time.monotonic() < deadline:
        time.sleep(0.5)
        for file in missing:
            list(file.parent.iterdir())  # has a network file system look again
    return [(file.name.split("-", 2)[2], f"what it writes to {file.parent} is not seen here") for file in missing]


def _remove(folder: Path, token: str) -> None:
    for file in folder.glob(f".probe-{token}*"):
        file.unlink(missing_ok=True)
