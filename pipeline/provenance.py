"""What a number was made by: revision and digest of the source, machine, library versions, date."""

import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

SOURCE_ROOT: Final = Path(__file__).resolve().parents[1]
UNKNOWN: Final = "unknown"

_SOURCE_FOLDERS: Final = ("datasets", "models", "pipeline", "jobs")
_LIBRARIES: Final = (
    *("torch", "torchvision", "ray", "numpy", "scipy", "trackeval", "pyarrow", "av"),
    *("opencv-python", "pycocotools", "mlflow"),
)
_GIT_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a result comes from; every published number states it."""

    revision: str
    """Git commit, with "+changes" where tracked files differ from it; "unknown" outside git."""
    source_digest: str
    """`digest_source` of the code that ran, which is there in a Ray working directory too."""
    hardware: str
    """Processor, cores in use, memory and GPUs, on one line."""
    date: str
    """UTC, to the second, ISO 8601."""
    versions: dict[str, str]
    """Python and the libraries that can change a number."""

    @property
    def made_by(self) -> str:
        """What pages state below their title."""
        return f"Made {self.date[:16].replace('T', ' ')} UTC by Quasar {self.revision}"


def describe_provenance() -> Provenance:
    """Provenance of what runs now, on this machine."""
    return Provenance(
        revision=find_revision(),
        source_digest=digest_source(),
        hardware=describe_hardware(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=library_versions(),
    )


def digest_source(root: Path = SOURCE_ROOT) -> str:
    """16 hexadecimal digits over names and contents of all files of our packages.

    Compiled files and hidden ones do not count, nor does the order in which a disk lists them.
    """
    digest = hashlib.sha256()
    files = (path for name in _SOURCE_FOLDERS for path in (root / name).rglob("*"))
    for path in sorted(path for path in files if path.is_file()):
        name = path.relative_to(root).as_posix()
        if "__pycache__" in name or "/." in name:
            continue
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def find_revision(root: Path = SOURCE_ROOT) -> str:
    """Git commit of the checkout at `root`; "unknown" where it is none, or git is not there."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # A copy of the source may lie inside somebody else's repository, whose commit says nothing.
    if top is None or Path(top).resolve() != root.resolve():
        return UNKNOWN
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return UNKNOWN
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if changes else commit


def describe_hardware() -> str:
    """Processor, cores this process may use, memory and NVIDIA GPUs of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    parts = [f"{cores} cores of {_processor_name()}", f"{memory_gib:.0f} GiB"]
    names = _gpu_names()
    parts += [f"{names.count(name)} x {name}" for name in sorted(set(names))]
    return ", ".join(parts)


def library_versions() -> dict[str, str]:
    """Version of Python and of each library that is installed."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _git(root: Path, *arguments: str) -> str | None:
    executable = shutil.which("git")
    if executable is None:
        return None
    try:
        done = subprocess.run(
            [executable, "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor_name(description: Path = Path("/proc/cpuinfo")) -> str:
    if description.exists():
        for line in description.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown processor"


def _gpu_names(driver: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Models that the NVIDIA driver lists; asked there because importing torch takes seconds."""
    names = []
    for path in sorted(driver.glob("*/information")):
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                names.append(" ".join(value.split()))
    return names
