"""A sweep that is killed (SIGKILL) at random moments, again and again: what is lost or repeated.

    python -m benchmarks.sweep_resume [--kills 20]

Lost: a trial that the study held before a kill and does not hold, unchanged, after it. Repeated: a
trial that a later process began to score though the study held it, or that MLflow has twice. At the
end the study must equal, but for the time that trials took, that of a sweep that nobody killed. The
sweeps use one Ray, since its start is not what is measured.
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
TRACE = "begun.txt"
ERRORS = "errors.txt"
_TRIALS_PER_KILL = 10


def main() -> None:
    """Print how many trials were lost and how many were done twice."""
    if sys.argv[1:2] == ["--traced"]:
        sys.exit(run_traced(Path(sys.argv[2]), sys.argv[3:]))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    kills = parser.parse_args().kills
    from pipeline.cluster import connect

    connect(num_cpus=2)
    num_trials = _TRIALS_PER_KILL * kills
    with tempfile.TemporaryDirectory(prefix="quasar-resume-") as folder:
        killed, whole = Path(folder, "killed"), Path(folder, "whole")
        stored = make_cache(f"{folder}/cache", num_sequences=8, num_frames=40)
        lost = repeated = 0
        before: list[dict[str, Any]] = []
        for kill in range(kills):
            job = start(killed, stored, num_trials, resume=bool(before))
            kill_at_random(job, killed, len(before) + 1, random.Random(kill))
            after = read_trials(killed)
            lost += sum(trial not in after for trial in before)
            repeated += len(take_trace(killed) & {trial["number"] for trial in before})
            print(f"kill {kill + 1}: {len(before)} trials before, {len(after)} after", flush=True)
            before = after
        for place, resume in ((killed, True), (whole, False)):
            if start(place, stored, num_trials, resume=resume).wait() != 0:
                sys.exit("the last sweep failed")
        repeated += len(take_trace(killed) & {trial["number"] for trial in before})
        repeated += num_doubles_in_mlflow(killed)
        end = read_trials(killed)
        print(f"{kills} kills, {len(end)} trials: {lost} lost, {repeated} repeated (target 0, 0)")
        print(f"the study equals that of an undisturbed sweep: {end == read_trials(whole)}")


def run_traced(folder: Path, arguments: list[str]) -> int:
    """A sweep that also writes down which trials it begins to score."""
    from jobs import command, sweep
    from pipeline.search import loop

    run_batch = loop.run_batch

    def traced(pool: Any, plan: Any, trials: Any, *more: Any) -> Any:
        with (folder / TRACE).open("a") as file:
            file.writelines(f"{number}\n" for number in trials)
        return run_batch(pool, plan, trials, *more)

    loop.run_batch = traced
    return command.run(sweep.main, arguments)


def take_trace(folder: Path) -> set[int]:
    """Trials that were begun since the last call."""
    path = folder / TRACE
    text = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    return set(map(int, text.split()))


def start(
    folder: Path, stored: tuple[Artefact, Artefact], num_trials: int, *, resume: bool
) -> "subprocess.Popen[bytes]":
    """A sweep of its own process group."""
    import ray

    folder.mkdir(exist_ok=True)
    frames, detections = stored
    command = [
        *(sys.executable, "-m", "benchmarks.sweep_resume", "--traced", folder),
        *("--frames", frames.folder, "--detections", detections.folder),
        *("--trials", str(num_trials), "--num-workers", "1", "--batch-size", "4", "--best", "1"),
        *("--storage", str(folder / "study.db"), "--study", STUDY, "--out", str(folder / "out")),
        *("--tracking-uri", f"sqlite:///{folder}/mlflow.db"),
        *(["--resume"] if resume else []),
    ]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with (folder / ERRORS).open("w") as errors:
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )


def kill_at_random(
    job: "subprocess.Popen[bytes]", folder: Path, num_trials: int, chance: random.Random
) -> None:
    """Kill it up to a second after the study holds so many trials."""
    while len(read_trials(folder)) < num_trials and job.poll() is None:
        time.sleep(0.02)
    time.sleep(chance.uniform(0.0, 1.0))
    if job.poll() is not None:
        sys.exit(f"a sweep ended before it was killed: {(folder / ERRORS).read_text()[-2000:]}")
    with suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()


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


def num_doubles_in_mlflow(folder: Path) -> int:
    """Runs of trials in MLflow beyond one for each."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    [experiment] = client.search_experiments(filter_string="name = 'quasar'")
    runs, token = [], None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], "tags.kind = 'trial'", page_token=token
        )
        runs += [run.info.run_name for run in page]
        token = page.token
        if not token:
            return len(runs) - len(set(runs))


if __name__ == "__main__":
    main()
