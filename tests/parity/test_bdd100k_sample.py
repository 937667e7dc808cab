"""Real BDD100K ground truth and tracker output against the figures of the official evaluator."""

import json
from pathlib import Path
from typing import Any

import pytest

from datasets.registry import BENCHMARKS
from pipeline.evaluate import EvaluationConfig, EvaluationReport, build_protocol, evaluate

COUNTS = ("FP", "FN", "IDSw", "MT", "PT", "ML", "FM")
HOTAS = ("HOTA", "DetA", "AssA")


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data/bdd100k_box_track"


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return content


def _score(folder: Path, **settings: Any) -> EvaluationReport:
    benchmark = BENCHMARKS["bdd100k"]
    return evaluate(
        build_protocol(EvaluationConfig(protocol="bdd100k", **settings)),
        benchmark.read_truth(folder / "gt.json"),
        benchmark.read_results(folder / "results.json"),
    )


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_score(folder).to_json())
    return content


def test_every_official_figure(report: dict[str, Any], expected: dict[str, Any]) -> None:
    official = expected["scalabel_official"]["per_class"]
    assert list(report["metrics"]) == list(official)
    for row, numbers in official.items():
        found = report["metrics"][row]
        for name, value in numbers.items():
            if name in COUNTS or value is None:
                assert found[name] == value, (row, name)
            else:  # MOTP of the official tool moves in the ninth digit between its own versions
                tolerance = 1e-6 if name == "MOTP" else 1e-12
                assert found[name] == pytest.approx(value, rel=tolerance, abs=1e-12), (row, name)


def test_the_official_summary(report: dict[str, Any], expected: dict[str, Any]) -> None:
    summary = expected["scalabel_official"]["summary"]
    average, overall = report["metrics"]["AVERAGE"], report["metrics"]["OVERALL"]
    for name in ("MOTA", "MOTP", "IDF1"):
        assert average[name] == pytest.approx(summary[f"m{name}"], rel=1e-6), name
        assert overall[name] == pytest.approx(summary[name], rel=1e-6), name


@pytest.mark.parametrize(
    ("block", "convention"),
    [
        ("trackeval_metrics_inclusive_boxes", "inclusive"),
        ("trackeval_stock_bdd100k_loader", "stock"),
    ],
)
def test_hota_of_either_box_convention(
    block: str, convention: str, folder: Path, expected: dict[str, Any]
) -> None:
    found = _score(folder, box_convention=convention).metrics
    rows = dict(expected[block])
    rows.pop("AVERAGE_nonempty_classes", None)
    rows["AVERAGE"] = rows.pop("AVERAGE_8_classes")
    assert rows.keys() == found.keys()
    for row, numbers in rows.items():
        for name in HOTAS:
            assert found[row][name] == pytest.approx(numbers[name], rel=1e-12), (row, name)


def test_stock_boxes_change_nothing_but_hota(folder: Path, report: dict[str, Any]) -> None:
    stock = json.loads(_score(folder, box_convention="stock").to_json())["metrics"]
    for row, numbers in report["metrics"].items():
        for name, value in numbers.items():
            if name not in HOTAS:
                assert stock[row][name] == value, (row, name)


def test_the_curve_averages_to_the_figure(folder: Path) -> None:
    report = _score(folder)
    for row, curves in report.curves.items():
        assert len(curves["HOTA"]) == 19
        assert sum(curves["HOTA"]) / 19 == pytest.approx(report.metrics[row]["HOTA"])
