"""Where the ranks of one job meet to form their process group, and who else can reach that.

On one machine they meet in a file of a folder that nobody else may enter (`private_meeting`), and what they send each
other goes over the loopback interface: no process of another user's takes part, and nothing listens to a network. Ranks
of several nodes meet at a socket of rank 0 on the network of the job (`MASTER_ADDR:MASTER_PORT`), bound to that address
alone. torch unpickles nothing that it finds in either.
"""

import functools
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tst_titan.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import Store

# In a rank's environment: the file.
MEETING_FILE = "TST_TITAN_MEETING_FILE"
_LOOPBACK = "lo" if sys.platform == "linux" else "lo0"
# Gloo's and NCCL's own sockets.
LOOPBACK_ALONE = {"GLOO_SOCKET_IFNAME": _LOOPBACK, "NCCL_SOCKET_IFNAME": _LOOPBACK}


@contextmanager
def private_meeting() -> Iterator[Path]:
    """A file that does not exist yet, in a folder of this user's alone, which is gone after the block.

    In the machine's own temporary folder: file systems that nodes share may lack the locks that torch takes on the
    file. `UserError` where the machine has no loopback interface.
    """
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("127.0.0.1", 9))  # sends nothing
        except OSError as error:
            raise UserError(
                f"127.0.0.1: {error.strerror}: processes of this machine talk over its loopback interface, and it is "
                "not up (ip link set lo up)"
            ) from error
    with tempfile.TemporaryDirectory(prefix="tst-titan-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "meeting"


def connect(timeout: timedelta) -> "Store":
    """A connection of this rank's own to the store where the ranks meet; an answer is waited for as long as
    `timeout`."""
    import torch.distributed as dist

    if file := os.environ.get(MEETING_FILE):
        store: Store = dist.FileStore(file, int(os.environ["WORLD_SIZE"]))
        store.set_timeout(timeout)
        return store
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)


def serve() -> "Store":
    """The store between several nodes, held by rank 0: it listens on the address that the others were told, and no
    other."""
    import torch.distributed as dist

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(address, family=family, backlog=1024)
    return dist.TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


@contextmanager
def met_ranks() -> Iterator[None]:
    """In the block, the process group of whoever calls `init_process_group` without a store is that of the ranks met
    here."""
    import torch.distributed as dist

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = serve() if rank == 0 and MEETING_FILE not in os.environ else connect(timedelta(minutes=30))
    original = dist.init_process_group
    dist.init_process_group = functools.partial(original, store=store, rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.init_process_group = original
