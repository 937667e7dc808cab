"""Two real MOT15 sequences against the figures of trackeval's own MOTChallenge evaluation."""

import json
from pathlib import Path

import pytest

from datasets.registry import BENCHMARKS
from pipeline.evaluate import EvaluationConfig, EvaluationReport, build_protocol, evaluate

PERCENTAGES = {
    **{name: f"{name}_mean" for name in ("HOTA", "DetA", "AssA")},
    **{name: name for name in ("MOTA", "MOTP", "IDF1")},
}
COUNTS = {"FP": "CLR_FP", "FN": "CLR_FN", "IDSw": "IDSW"} | {
    name: name for name in ("MT", "PT", "ML", "Frag")
}


@pytest.fixture(scope="module")
def report(shared: Path) -> EvaluationReport:
    demo = shared / "data/mot15_demo"
    benchmark = BENCHMARKS["mot15"]
    return evaluate(
        build_protocol(EvaluationConfig(protocol="mot15")),
        benchmark.read_truth(demo / "gt"),
        benchmark.read_results(demo / "results/data"),
    )


@pytest.mark.parametrize("sequence", ["TUD-Campus", "TUD-Stadtmitte", "COMBINED_SEQ"])
def test_every_figure(sequence: str, report: EvaluationReport, shared: Path) -> None:
    text = (shared / "data/mot15_demo/expected_trackeval.json").read_text()
    expected = json.loads(text)["MOT15_preproc_True"][sequence]
    table = report.sequences.get(sequence, report.metrics)
    found = table["pedestrian"]
    for name, field in PERCENTAGES.items():
        assert found[name] == pytest.approx(100 * expected[field], rel=1e-12), name
    for name, field in COUNTS.items():
        assert found[name] == expected[field], name
    assert found.keys() == {*PERCENTAGES, *COUNTS}


def test_the_only_row_is_pedestrian(report: EvaluationReport) -> None:
    assert list(report.metrics) == ["pedestrian"]
    assert list(report.sequences) == ["TUD-Campus", "TUD-Stadtmitte"]
