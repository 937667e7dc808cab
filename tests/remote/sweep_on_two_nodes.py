"""A sweep on a cluster of two nodes in this process's own Ray, one of which is lost on the way.

    python sweep_on_two_nodes.py STUDY_DB TRIALS_BEFORE_THE_LOSS ARGUMENTS_OF_JOBS_SWEEP

Apart from the tests, whose process has the Ray of the suite.
"""

import os
import sqlite3
import sys
import threading
import time
from contextlib import closing, suppress

from jobs import command, sweep


def main() -> int:
    """Start both nodes, lose one when so many trials are in the study, and finish the sweep."""
    # Before Ray is imported, and not while doctests of this file are looked for.
    os.environ["RAY_AUTH_MODE"] = "disabled"  # loopback only
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    database, num_before, *arguments = sys.argv[1:]
    store = {"object_store_memory": 300 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
    lost = cluster.add_node(num_cpus=1, object_store_memory=300 * 2**20)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address

    def lose_node() -> None:
        while count_trials(database) < int(num_before):
            time.sleep(0.05)
        cluster.remove_node(lost, allow_graceful=False)
        print(f"lost a node after {count_trials(database)} trials", flush=True)

    thread = threading.Thread(target=lose_node, daemon=True)
    thread.start()
    code = command.run(sweep.main, arguments)
    thread.join(timeout=60)
    alive = sum(node["Alive"] for node in ray.nodes())
    print(f"{alive} node alive at the end", flush=True)
    ray.shutdown()
    cluster.shutdown()
    return code


def count_trials(database: str) -> int:
    address = f"file:{database}?mode=ro"
    with suppress(sqlite3.Error), closing(sqlite3.connect(address, uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM trials").fetchone()[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
