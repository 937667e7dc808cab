"""What the texts of a diagnosis call things: boxes or masks, and the benchmark's own metrics."""

from typing import Final

from pipeline.metrics.protocol import ScoringProtocol

_ALSO_FRAGMENTS: Final = {
    "MotsCounting": "; or, as the official tool counts, changes its track without a gap, or is "
    "found for the first time in its last frame"
}
"""What some rules count beside identities that are lost and found again."""


def in_words(template: str, protocol: ScoringProtocol) -> str:
    """A text with the words of a benchmark in place of {box}, {boxes}, {accuracy} ...

    Args:
        template: may also name {half}, the least overlap of a match, and {also_fragments}.
        protocol: the rules.
    """
    box, boxes = ("mask", "masks") if protocol.compares_masks else ("box", "boxes")
    return template.format(
        box=box,
        boxes=boxes,
        accuracy=protocol.accuracy,
        half="0.5 or more" if protocol.half_matches else "more than 0.5",
        also_fragments=_ALSO_FRAGMENTS.get(protocol.counted_by, ""),
    )
