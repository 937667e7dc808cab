"""The cluster files are what Ray's own validator accepts, and open nothing to the world."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml


def cluster_configs(repository: Path) -> dict[str, dict[str, Any]]:
    """cluster.yaml and the on-premises variant printed in docs/cluster.md."""
    text = (repository / "docs" / "cluster.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return {
        "cloud": yaml.safe_load((repository / "cluster.yaml").read_text()),
        "on premises": yaml.safe_load(block[1]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cloud", "on premises"])
def test_rays_validator_accepts_the_file_and_catches_a_typo(repository: Path, name: str) -> None:
    # Private functions of the pinned Ray; validation comes after preparation, which fills defaults.
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = cluster_configs(repository)[name]
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="max_wrkers"):
        validate_config(prepare_config({**config, "max_wrkers": 3}))


@pytest.mark.parametrize("name", ["cloud", "on premises"])
def test_tokens_are_on_and_nothing_listens_on_a_public_address(repository: Path, name: str) -> None:
    config = cluster_configs(repository)[name]
    head = " ".join(config["head_start_ray_commands"])
    workers = " ".join(config["worker_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--address=$RAY_HEAD_IP:6379" in workers
    for command in (head, workers):
        assert command.index("ray stop") < command.index("RAY_AUTH_MODE=token ray start")
    assert "0.0.0.0" not in yaml.safe_dump(config)


def test_raw_data_is_mounted_at_the_same_path_on_every_node(repository: Path) -> None:
    options = cluster_configs(repository)["cloud"]["docker"]["run_options"]
    assert "-v /data:/data:ro" in options
    assert "--data-root /data/" in (repository / "docs" / "cluster.md").read_text()


def test_both_builders_leave_the_same_files_out(repository: Path) -> None:
    """podman reads .containerignore, docker only .dockerignore."""
    first, second = (repository / name for name in (".containerignore", ".dockerignore"))
    assert first.read_text() == second.read_text()
    assert {".venv/", ".git/"} <= set(first.read_text().split())


def test_the_image_asks_for_the_gpus_of_its_node(repository: Path) -> None:
    text = (repository / "Containerfile").read_text()
    assert "NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility" in text


def test_the_cloud_has_cpu_and_gpu_workers_and_an_idle_head(repository: Path) -> None:
    config = cluster_configs(repository)["cloud"]
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert {"cpu_worker", "gpu_worker"} <= set(types)
    assert all(types[name]["max_workers"] >= 1 for name in ("cpu_worker", "gpu_worker"))
