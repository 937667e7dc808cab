"""Identity scores (IDF1) of trackeval without its dense square matrices.

trackeval solves an assignment of (G + T) x (G + T) for G identities and T tracks: 1.6 GB for ten
thousand tracks of one frame. Its optimum only depends on the greatest total number of frames that
identities and tracks, paired one to one, share: false negatives and false positives are what
remains of both sides. That total is the same for every optimal pairing, so ties cannot change a
count, and it is a sum over the connected components of "shares a frame with".
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from trackeval.metrics import Identity as TrackevalIdentity

from datasets.schema import Int64
from pipeline.metrics.class_data import ClassData
from pipeline.metrics.matching import is_contested


class Identity(TrackevalIdentity):  # type: ignore[misc]  # trackeval has no types
    """trackeval's Identity at IoU 0.5: equal in every field; the combiners are inherited."""

    def __init__(self) -> None:
        super().__init__({"PRINT_CONFIG": False})

    @classmethod
    def get_name(cls) -> str:
        return "Identity"

    def eval_sequence(self, data: ClassData | Mapping[str, Any]) -> dict[str, Any]:
        """Fields of Identity for one class of one sequence, flat or in trackeval's lists."""
        flat = ClassData.of(data)
        if flat.is_one_sided:
            one_sided: dict[str, Any] = super().eval_sequence(flat)
            return one_sided
        matches = flat.pair_iou >= self.threshold
        keys = flat.truth_id[flat.pair_truth[matches]] * flat.num_track_ids
        keys += flat.track_id[flat.pair_track[matches]]
        keys, counts = np.unique(keys, return_counts=True)
        rows, columns = np.divmod(keys, flat.num_track_ids)
        true_positives = most_shared_frames(rows, columns, counts)
        fields = dict.fromkeys(self.fields, 0)
        fields["IDTP"] = true_positives
        fields["IDFN"] = flat.num_truth - true_positives
        fields["IDFP"] = flat.num_tracks - true_positives
        complete: dict[str, Any] = self._compute_final_fields(fields)
        return complete


def most_shared_frames(rows: Int64, columns: Int64, counts: Int64) -> int:
    """Greatest total count of a one-to-one choice among the given pairs.

    Args:
        rows: (K,) identity of each pair; no pair appears twice.
        columns: (K,) track of each pair.
        counts: (K,) frames that the pair shares, positive.

    >>> most_shared_frames(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([5, 4, 4]))
    8
    """
    if not len(rows):
        return 0
    num_rows, num_columns = int(rows.max()) + 1, int(columns.max()) + 1
    contested = is_contested(rows, columns, num_rows, num_columns)
    total = int(counts[~contested].sum())
    if contested.any():
        total += _solve_components(rows[contested], columns[contested], counts[contested])
    return total


def _solve_components(rows: Int64, columns: Int64, counts: Int64) -> int:
    row_names, rows = np.unique(rows, return_inverse=True)
    column_names, columns = np.unique(columns, return_inverse=True)
    size = len(row_names) + len(column_names)
    graph = coo_array((np.ones(len(rows)), (rows, columns + len(row_names))), shape=(size, size))
    num_components, component_of = connected_components(graph, directed=False)
    component = component_of[rows]
    num_rows_in = np.bincount(component_of[: len(row_names)], minlength=num_components)
    num_columns_in = np.bincount(component_of[len(row_names) :], minlength=num_components)
    is_star = (num_rows_in == 1) | (num_columns_in == 1)  # one box on a side: it takes its best
    best = np.zeros(num_components, np.int64)
    np.maximum.at(best, component, counts)
    total = int(best[is_star].sum())
    for index in np.flatnonzero(~is_star):
        pairs = component == index
        total += _solve_dense(rows[pairs], columns[pairs], counts[pairs])
    return total


def _solve_dense(rows: Int64, columns: Int64, counts: Int64) -> int:
    _, rows = np.unique(rows, return_inverse=True)
    _, columns = np.unique(columns, return_inverse=True)
    matrix = np.zeros((rows.max() + 1, columns.max() + 1))
    matrix[rows, columns] = counts
    return int(matrix[linear_sum_assignment(matrix, maximize=True)].sum())
