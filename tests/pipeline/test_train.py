"""Names of trainings, what they start from, their settings, and what is collected of them."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from models.weights import save_weights
from pipeline.model_store import MODEL_PART
from pipeline.overrides import apply_overrides
from pipeline.store import Artefact
from pipeline.train import TrainConfig, initial_model, train, weights_artefact
from pipeline.training_collector import Collector
from tests.small_model import MODEL
from tests.training_scene import TRAIN, assert_same_state, write_training_frames

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Artefact]:
    return write_training_frames(tmp_path_factory.mktemp("frames"))


def test_the_name_of_a_training_follows_from_what_changes_it(frames: list[Artefact]) -> None:
    name = partial(weights_artefact, frames, MODEL)
    assert name(TRAIN) == name(replace(TRAIN, validation_pairs=99, validation_sequences=9))
    assert name(TRAIN).split == "train+det_train"
    assert name(TRAIN).fingerprint != name(replace(TRAIN, seed=1)).fingerprint
    assert name(TRAIN).fingerprint != weights_artefact(frames[:1], MODEL, TRAIN).fingerprint


def test_initial_weights_count_in_the_name_by_content(
    frames: list[Artefact], tmp_path: Path
) -> None:
    for file, seed in (("a", 1), ("b", 1), ("c", 2)):
        save_weights(tmp_path / file, initial_model(MODEL, replace(TRAIN, seed=seed)))
    a, b, c = (
        weights_artefact(frames, MODEL, TRAIN, str(tmp_path / file)).fingerprint for file in "abc"
    )
    assert a == b != c


def test_the_seed_decides_random_weights_and_nothing_else_does() -> None:
    state = torch.get_rng_state()
    first, again = initial_model(MODEL, TRAIN), initial_model(MODEL, TRAIN)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_state(first.state_dict(), again.state_dict())
    other = initial_model(MODEL, replace(TRAIN, seed=1)).state_dict()
    assert any(not torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_training_never_starts_from_random_weights_unasked() -> None:
    with pytest.raises(ValueError, match="backbone_weights is not set"):
        initial_model(MODEL, replace(TRAIN, backbone_weights=None))


def test_training_starts_from_given_weights(tmp_path: Path) -> None:
    given = initial_model(MODEL, replace(TRAIN, seed=5))
    save_weights(tmp_path / "w", given)
    config = replace(TRAIN, backbone_weights=None)
    found = initial_model(MODEL, config, str(tmp_path / "w"))
    assert_same_state(found.state_dict(), given.state_dict())
    other = replace(MODEL, classes=("car", "train"))
    with pytest.raises(ValueError, match=r"model\.classes .*'car', 'bus'.*has .*'car', 'train'"):
        initial_model(other, config, str(tmp_path / "w"))
    smaller = replace(MODEL, embedding=replace(MODEL.embedding, embedding_dim=8))
    with pytest.raises(ValueError, match="does not fit the model's config"):
        initial_model(smaller, config, str(tmp_path / "w"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input.channels", "bgr"),
        ("input.mean", "(103.53, 116.28, 123.675)"),
        ("input.std", "(1.0, 1.0, 1.0)"),
        ("input.short_side", "32"),
        ("detector.pooling.level_rule", "vis4d"),
        ("detector.rpn.anchor_scale", "8.0"),
        ("detector.rpn.aspect_ratios", "(1.0, 2.0, 0.5)"),
        ("detector.roi_head.delta_stds", "(0.1, 0.1, 0.1, 0.1)"),
    ],
)
def test_weights_made_for_another_meaning_of_their_numbers_are_refused(
    tmp_path: Path, field: str, value: str
) -> None:
    """Every tensor fits: only the config in the file shows it."""
    other = apply_overrides(MODEL, {field: value})
    save_weights(tmp_path / "w", initial_model(other, TRAIN))
    with pytest.raises(ValueError, match=rf"trained with model\.{re.escape(field)} "):
        initial_model(MODEL, TRAIN, str(tmp_path / "w"))


def test_weights_may_be_trained_on_in_another_way(tmp_path: Path) -> None:
    overrides = {
        "detector.rpn.sample_size": "32",
        "detector.roi_head.positive_fraction": "0.5",
        "quasi_dense.sample_size": "32",
    }
    given = initial_model(apply_overrides(MODEL, overrides), TRAIN)
    save_weights(tmp_path / "w", given)
    found = initial_model(MODEL, TRAIN, str(tmp_path / "w"))
    assert_same_state(found.state_dict(), given.state_dict())


def test_backbone_weights_count_in_the_name_by_content(
    frames: list[Artefact], tmp_path: Path
) -> None:
    def name(source: str) -> str:
        config = replace(TRAIN, backbone_weights=source)
        return weights_artefact(frames, MODEL, config).fingerprint

    for file, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / file).write_bytes(content)
    a, b, c = (name(str(tmp_path / file)) for file in "abc")
    assert a == b != c
    assert len({a, c, name("random"), name("torchvision")}) == 4


def test_weights_whose_file_is_gone_are_no_finished_training(
    frames: list[Artefact], tmp_path: Path
) -> None:
    """The manifest alone was taken for the result, and every later stage failed."""
    absent = [replace(frames[0], root=str(tmp_path))]
    output = weights_artefact(absent, MODEL, TRAIN)
    with output.part(MODEL_PART).write() as writer, writer.open_file("x") as stream:
        stream.write(b"x")
    output.finish([MODEL_PART], {})
    assert train(absent, MODEL, TRAIN) == output
    (Path(output.part(MODEL_PART).folder) / "x").unlink()
    with pytest.raises(ValueError, match=str(absent[0].folder)):  # it starts to read frames
        train(absent, MODEL, TRAIN)


def test_pairs_must_divide_over_the_workers(frames: list[Artefact]) -> None:
    with pytest.raises(ValueError, match="pairs_per_step is 2, which does not divide over 3"):
        train(frames, MODEL, TRAIN, num_workers=3)


@pytest.mark.parametrize("field", ["pairs_per_step", "window", "buffer"])
def test_config_refuses_nothing_at_all(field: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.{field} is 0, expected at least 1"):
        TrainConfig(**{field: 0})


def test_the_collector_counts_a_repeated_step_once() -> None:
    collector = Collector()
    collector.add([(1, {"total": 1.0}), (2, {"total": 2.0})])
    collector.add([(2, {"total": 2.5})])
    assert collector.take() == [(1, {"total": 1.0}), (2, {"total": 2.5})]
    collector.add([(2, {"total": 9.0}), (3, {"total": 3.0})])
    assert collector.take() == [(3, {"total": 3.0})]
    assert collector.take() == []
    collector.fail("first")
    collector.fail("second")
    assert collector.failure() == "first"
