"""A sweep that is killed (SIGKILL) at random moments, again and again: what is lost or repeated.

    python -m benchmarks.sweep_resume [--kills 20]

After every kill the study must hold all trials that it held before, unchanged, and at the end it
must equal, but for the time that trials took, the study of a sweep that nobody killed: a trial
that was scored twice, with another outcome or under another number would differ. The sweeps use
one Ray, since its start is not what is measured.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.sweep_cache import make_cache
from pipeline.store import Artefact

STUDY = "killed"


def main() -> None:
    """Print how many trials were lost and how many are there twice."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    kills = parser.parse_args().kills
    from pipeline.cluster import connect

    connect(num_cpus=2)
    num_trials = 2 * kills + 9
    with tempfile.TemporaryDirectory(prefix="quasar-resume-") as folder:
        root = Path(folder)
        stored = make_cache(str(root / "cache"), num_sequences=8, num_frames=40)
        lost = 0
        before: list[dict[str, Any]] = []
        for kill in range(kills):
            job = start(root / "killed", stored, num_trials, resume=kill > 0 and bool(before))
            wanted = len(before) + 1
            moment = random.Random(kill).uniform(0.0, 2.0)
            while len(read_trials(root / "killed")) < wanted and job.poll() is None:
                time.sleep(0.02)
            time.sleep(moment)
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
            job.wait()
            after = read_trials(root / "killed")
            lost += sum(trial not in after for trial in before)
            print(f"kill {kill + 1}: {len(before)} trials before, {len(after)} after", flush=True)
            before = after
        for name, resume in (("killed", True), ("whole", False)):
            job = start(root / name, stored, num_trials, resume=resume)
            assert job.wait() == 0
        killed, whole = read_trials(root / "killed"), read_trials(root / "whole")
        numbers = [trial["number"] for trial in killed]
        repeated = len(numbers) - len(set(numbers))
        print(
            f"{kills} kills, {len(killed)} trials: {lost} lost, {repeated} repeated (target 0, 0)"
        )
        print(f"the study equals that of an undisturbed sweep: {killed == whole}")


def start(
    folder: Path, stored: tuple[Artefact, Artefact], num_trials: int, *, resume: bool
) -> "subprocess.Popen[bytes]":
    """A sweep of its own process group."""
    import ray

    folder.mkdir(exist_ok=True)
    frames, detections = stored
    command = [
        *(sys.executable, "-m", "jobs.sweep", "--frames", frames.folder),
        *("--detections", detections.folder, "--trials", str(num_trials), "--num-workers", "1"),
        *("--storage", str(folder / "study.db"), "--study", STUDY, "--out", str(folder / "out")),
        *("--tracking-uri", f"sqlite:///{folder}/mlflow.db", "--batch-size", "4", "--best", "1"),
        *(["--resume"] if resume else []),
    ]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def read_trials(folder: Path) -> list[dict[str, Any]]:
    """All that the study says of its trials but the time; none where it is not there yet."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not (folder / "study.db").exists():
        return []
    try:
        study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{folder}/study.db")
        trials = study.get_trials(deepcopy=False)
    except Exception:  # the tables are being made
        return []
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "values": trial.values,
            "attributes": {k: v for k, v in trial.user_attrs.items() if k != "seconds"},
        }
        for trial in trials
    ]


if __name__ == "__main__":
    main()
