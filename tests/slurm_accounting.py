"""Accounts for the test cluster: MariaDB and slurmdbd beside it, in its folder, as children like its other daemons.

MariaDB listens on a socket alone, in a folder that only root enters, and so asks nobody for a password. Its packages of
the server alone have no client and no script that works without one: its tables are made by the server itself
(`--bootstrap`).
"""

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_cluster import SlurmCluster

PACKAGES = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server-core"}
SYSTEM_TABLES = [
    Path("/usr/share/mysql") / name for name in ("mysql_system_tables.sql", "mysql_system_tables_data.sql")
]
# What slurmdbd asks for, small: a statement may wait long for another one's lock.
MARIADBD = [
    "mariadbd",
    "--no-defaults",
    "--user=root",
    "--innodb-lock-wait-timeout=900",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    "--innodb-flush-log-at-trx-commit=0",
]
SLURMDBD_CONF = """\
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""
# The "password" is munge's socket: AuthInfo is not for what talks with slurmdbd.
SLURM_CONF = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={root}/munge.socket
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
"""
# Accounts and QOS of the user root: chemistry and urgent are there, and not root's.
ASSOCIATIONS = [
    "add cluster tests",
    "add account lab,physics,chemistry cluster=tests",
    "add qos long,night,urgent",
    "add user root account=lab,physics defaultaccount=lab",
    "modify user root where account=lab set qos=normal,long",
    "modify user root where account=physics set qos=normal,night",
]


def commands(root: Path) -> dict[str, list[str]]:
    """How each of the two daemons is started in the foreground."""
    data = root / "mariadb"
    return {
        "mariadbd": [*MARIADBD, f"--datadir={data}", f"--socket={data}/socket", "--skip-networking", "--skip-grant-tables"],  # noqa: E501
        "slurmdbd": ["env", f"MYSQL_UNIX_PORT={data}/socket", "slurmdbd", "-D"],
    }  # fmt: skip


def start_accounting(cluster: "SlurmCluster", port: int) -> None:
    """Bring the database and slurmdbd up, and fill in the associations; before slurmctld, which then enforces them."""
    (cluster.root / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(root=cluster.root, port=port))
    (cluster.root / "slurmdbd.conf").chmod(0o600)
    data = cluster.root / "mariadb"
    data.mkdir(mode=0o700)
    tables = [file.read_text() for file in SYSTEM_TABLES]
    sql = "\n".join(["CREATE DATABASE mysql;", "USE mysql;", *tables, "CREATE DATABASE slurm_acct_db;"])
    made = subprocess.run(
        [*MARIADBD, f"--datadir={data}", "--bootstrap"], input=sql, text=True, capture_output=True, check=False
    )  # fmt: skip
    if made.returncode:
        raise RuntimeError(f"mariadbd --bootstrap: {made.stderr[-2000:]}")
    cluster.start("mariadbd")
    cluster.wait_for("mariadbd", (data / "socket").exists)
    cluster.start("slurmdbd")
    cluster.wait_for("slurmdbd", lambda: answers(cluster))
    for change in ASSOCIATIONS:
        cluster.run("sacctmgr", "-i", *change.split())


def answers(cluster: "SlurmCluster") -> bool:
    """Whether slurmdbd does."""
    asked = subprocess.run(
        ["sacctmgr", "-n", "list", "cluster"], env=cluster.environment, capture_output=True, check=False
    )
    return asked.returncode == 0
