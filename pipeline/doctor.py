"""What is wrong with a set-up, found before it costs an hour: one finding per check."""

import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from datasets.registry import Benchmark
from pipeline.files import write_file
from pipeline.locations import is_local, join_location, open_filesystem

Level = Literal["ok", "warning", "error"]

_PACKAGES: Final = (
    *("ray", "torch", "torchvision", "trackeval", "pyarrow", "mlflow", "optuna", "numpy", "scipy"),
    *("av", "opencv-python", "safetensors", "pycocotools"),
)
_FREE_BYTES: Final = 5 << 30
_SHARED_MEMORY_BYTES: Final = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    level: Level
    subject: str
    message: str


def examine_setup(output_root: str, constraints: Path) -> Iterator[Finding]:
    """Check Python, packages, devices, Ray's settings and the output root, one after the other.

    Args:
        output_root: root of all artefacts; a file is written there and removed again.
        constraints: file of the versions that were run together.
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _check_python,
        lambda: _check_packages(constraints),
        _check_torch,
        _check_ray,
        lambda: _check_root(output_root),
    )
    for check in checks:
        yield from check()


def examine_data(benchmark: Benchmark, data_root: Path) -> Iterator[Finding]:
    """Which files of a benchmark are there, which are missing, and how many sequences are whole.

    Folders are listed, no file is opened.
    """
    if not data_root.is_dir():
        yield Finding(level="error", subject="data", message=f"{data_root} is not a folder")
        return
    files = benchmark.expected_files(data_root)
    for file in files:
        subject = f"data {file.path}"
        if file.exists:
            yield Finding(level="ok", subject=subject, message=file.what)
        else:
            level: Level = "error" if file.required else "warning"
            yield Finding(level=level, subject=subject, message=f"missing: {file.what}")
    missing = {Path(file.path).name for file in files if file.required and not file.exists}
    for split, num_published in benchmark.published_sequences.items():
        if split not in missing:
            yield _compare_sequences(benchmark, data_root, split, num_published)


def _compare_sequences(
    benchmark: Benchmark, data_root: Path, split: str, num_published: int
) -> Finding:
    """Sequences with both frames and labels against those that were published."""
    sources, problems = benchmark.list_sequences(data_root, split)
    message = f"{len(sources)} sequences of {num_published} have frames and labels"
    level: Level = "ok" if len(sources) == num_published and not problems else "warning"
    if problems:
        first = problems[0]
        message += f"; {len(problems)} problems, the first: {first.where}: {first.what}"
    return Finding(level=level if sources else "error", subject=f"data {split}", message=message)


def _check_python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(level="ok", subject="python", message=f"{version} at {sys.executable}")


def _check_packages(constraints: Path) -> Iterator[Finding]:
    pinned = _read_pins(constraints)
    for name in _PACKAGES:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            message = "not installed; run `make setup` and use .venv/bin/python"
            yield Finding(level="error", subject=name, message=message)
            continue
        wanted = pinned.get(name)
        if wanted is not None and found.split("+")[0] != wanted:
            message = f"{found}, tested with {wanted}; `make setup` installs that"
            yield Finding(level="warning", subject=name, message=message)
        else:
            yield Finding(level="ok", subject=name, message=found)


def _read_pins(constraints: Path) -> dict[str, str]:
    if not constraints.is_file():
        return {}
    pairs = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", constraints.read_text(), re.MULTILINE)
    return dict(pairs)


def _check_torch() -> Iterator[Finding]:
    """torchvision's metadata lets a resolver mix builds; its operators then do not load."""
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        torchvision.ops.nms(boxes, torch.ones(1), 0.5)
    except Exception as error:  # an import of a broken build fails in many ways
        message = f"do not work together ({error}); run `make setup`"
        yield Finding(level="error", subject="torch and torchvision", message=message)
        return
    yield Finding(level="ok", subject="torch and torchvision", message="load and agree")
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        message = f"{torch.cuda.device_count()} x {name}; use it with --gpus-per-worker"
        yield Finding(level="ok", subject="gpu", message=message)
    else:
        message = "none: real BDD100K takes days to train on a CPU, the demo minutes"
        yield Finding(level="warning", subject="gpu", message=message)


def _check_ray() -> Iterator[Finding]:
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is None:
        message = (
            "RAY_AUTH_MODE is not set: `ray job submit` may answer Unauthorized; run "
            "`export RAY_AUTH_MODE=token` in every shell"
        )
        yield Finding(level="warning", subject="ray token", message=message)
    elif mode == "token" and not _has_token():
        message = "there is none yet: `ray start` needs one; run `ray get-auth-token --generate`"
        yield Finding(level="warning", subject="ray token", message=message)
    else:
        yield Finding(level="ok", subject="ray token", message=f"RAY_AUTH_MODE={mode}")
    shared = Path("/dev/shm")  # noqa: S108  (where Ray keeps its objects, nothing is written)
    if shared.is_dir() and shutil.disk_usage(shared).total < _SHARED_MEMORY_BYTES:
        message = "smaller than 1 GiB: Ray falls back to disk; give the container --shm-size"
        yield Finding(level="warning", subject="shared memory", message=message)


def _has_token() -> bool:
    """Whether Ray would find a token, by its own order of places."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return Path(path).is_file()


def _check_root(root: str) -> Iterator[Finding]:
    subject = "output root"
    location = join_location(root, ".doctor")
    try:
        with write_file(location) as stream:
            stream.write(b"x")
        filesystem, path = open_filesystem(location)
        filesystem.delete_file(path)
    except OSError as error:
        message = f"{root} cannot be written: {error}"
        yield Finding(level="error", subject=subject, message=message)
        return
    if is_local(root) and shutil.disk_usage(open_filesystem(root)[1]).free < _FREE_BYTES:
        message = f"{root} has less than 5 GiB free"
        yield Finding(level="warning", subject=subject, message=message)
    else:
        yield Finding(level="ok", subject=subject, message=root)
    temporary = tempfile.gettempdir()
    if shutil.disk_usage(temporary).free < _FREE_BYTES:
        message = f"{temporary} has less than 5 GiB free: Ray keeps its session there"
        yield Finding(level="warning", subject="temporary folder", message=message)
