"""A small tracking score after every epoch of training, on a fixed few sequences."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets.registry import BENCHMARKS
from datasets.schema import SequenceResult
from pipeline.associate import AssociationConfig, associate_sequence
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate
from pipeline.frames import FrameReader, read_truth
from pipeline.infer import InferConfig, detect_sequence
from pipeline.leaderboard import headline_numbers
from pipeline.store import Artefact

if TYPE_CHECKING:
    from models.qdtrack.model import QDTrack

_SHOWN = ("mMOTA", "mIDF1", "MOTA", "IDF1", "HOTA")


@dataclass(frozen=True, kw_only=True)
class EpochScorer:
    """Tracks and scores the first sequences of an artefact with the model as it is; picklable."""

    frames: Artefact
    benchmark: str
    num_sequences: int
    infer: InferConfig
    association: AssociationConfig
    evaluation: EvaluationConfig

    def __call__(self, model: "QDTrack", epoch: int) -> dict[str, float]:
        """Headline numbers as ``validation/<metric>``; none where nothing is to be scored."""
        names = self.frames.sequences()[: self.num_sequences]
        if not names:
            return {}
        classes = BENCHMARKS[self.benchmark].classes
        was_training = model.training
        model.eval()
        truths, results = {}, {}
        for name in names:
            part = self.frames.part(name)
            detections = detect_sequence(model, FrameReader(part), classes, self.infer)
            tracks = associate_sequence(detections, self.association)
            truths[name] = read_truth(part)
            results[name] = SequenceResult(
                name=name, tracks=tracks, num_frames=detections.num_frames
            )
        model.train(was_training)
        report = evaluate(build_protocol(self.evaluation), truths, results)
        numbers = headline_numbers(report.metrics)
        return {f"validation/{m}": float(v) for m in _SHOWN if (v := numbers.get(m)) is not None}
