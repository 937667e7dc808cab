"""Matching boxes inside frames, with a Hungarian only where boxes compete for each other.

A pair whose two boxes have no other candidate is in every best matching. Most frames hold only such
pairs, so they are settled for the whole sequence at once. A frame with competition goes whole to
the same solver as in the official tools, so that ties break the same way.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from datasets.schema import Bool, Float64, Int64
from pipeline.metrics.class_data import ClassData


def is_contested(rows: Int64, columns: Int64, num_rows: int, num_columns: int) -> Bool:
    """Which pairs share their row or their column with another of the given pairs.

    >>> is_contested(np.array([0, 0, 1]), np.array([0, 1, 2]), 2, 3).tolist()
    [True, True, False]
    """
    uses_of_row = np.bincount(rows, minlength=num_rows)
    uses_of_column = np.bincount(columns, minlength=num_columns)
    contested: Bool = (uses_of_row[rows] > 1) | (uses_of_column[columns] > 1)
    return contested


def match_in_order(
    data: ClassData,
    candidates: Bool,
    settle: Callable[[int, Int64], tuple[Int64, Int64]],
) -> Int64:
    """Match truth with tracks frame by frame, for rules that look back at earlier matches.

    Args:
        data: one class of one sequence.
        candidates: (K,) which pairs may be matched at all; the rule matches every uncontested one.
        settle: called in order of time for each frame with contested candidates, with the frame
            and the (G,) matches so far (complete for all earlier frames); returns matched truth
            rows and track rows of the frame.

    Returns:
        (G,) track row matched to each truth row, -1 for none.
    """
    matched_track = np.full(data.num_truth, -1)
    rows, columns = data.pair_truth[candidates], data.pair_track[candidates]
    contested = is_contested(rows, columns, data.num_truth, data.num_tracks)
    matched_track[rows[~contested]] = columns[~contested]
    for frame in np.unique(data.truth_frame[rows[contested]]).tolist():
        truth_rows, track_rows = settle(frame, matched_track)
        matched_track[truth_rows] = track_rows
    return matched_track


def match_most_then_cheapest(
    num_rows: int, num_columns: int, rows: Int64, columns: Int64, costs: Float64
) -> Int64:
    """As many of the given pairs as possible without sharing a box, then the least total cost.

    Args:
        num_rows: boxes of one side in the frame.
        num_columns: boxes of the other side.
        rows: (K,) row of each allowed pair.
        columns: (K,) column of each allowed pair.
        costs: (K,) in [0, 1].

    Returns:
        Positions in the given pairs of those that are matched, ordered by row.

    >>> match_most_then_cheapest(2, 2, np.array([0, 0, 1]), np.array([0, 1, 0]),
    ...                          np.array([0.1, 0.4, 0.4])).tolist()
    [1, 2]
    """
    if not is_contested(rows, columns, num_rows, num_columns).any():
        return np.argsort(rows, kind="stable")
    # One forbidden pair costs more than any choice among the allowed ones can save.
    forbidden = float(min(num_rows, num_columns) + 1)
    matrix = np.full((num_rows, num_columns), forbidden)
    matrix[rows, columns] = costs
    position = np.full((num_rows, num_columns), -1)
    position[rows, columns] = np.arange(len(rows))
    chosen: Int64 = position[linear_sum_assignment(matrix)]
    return chosen[chosen >= 0]
