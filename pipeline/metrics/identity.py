"""Identity scores (IDF1) of trackeval without its dense square matrices.

trackeval solves an assignment of (G + T) x (G + T) for G identities and T tracks: 1.6 GB for ten
thousand tracks of one frame. Its optimum only depends on the greatest total number of frames that
identities and tracks, paired one to one, share: false negatives and false positives are what
remains of both sides. That total is the same for every optimal pairing, so ties cannot change a
count. It is the sum of every identity's best where no two share their best track, and otherwise a
sum over the connected components of "shares a frame with".
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


class Identity(TrackevalIdentity):  # type: ignore[misc]  # trackeval has no types
    """trackeval's Identity at IoU 0.5: equal in every field; the combiners are inherited."""

    fields_to_combine = ("IDTP", "IDFN", "IDFP")

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
    for sides in ((rows, columns), (columns, rows)):
        total = _sum_of_favourites(*sides, counts)
        if total is not None:
            return total
    return _solve_components(rows, columns, counts)


def _sum_of_favourites(rows: Int64, columns: Int64, counts: Int64) -> int | None:
    """Sum of the greatest counts of all rows, which nothing exceeds; None if two want a column."""
    order = np.lexsort((counts, rows))
    is_greatest = np.append(rows[order[1:]] != rows[order[:-1]], True)[: len(rows)]
    favourites = order[is_greatest]
    if len(np.unique(columns[favourites])) < len(favourites):
        return None
    return int(counts[favourites].sum())


def _solve_components(rows: Int64, columns: Int64, counts: Int64) -> int:
    """Every connected part of the graph of pairs for itself."""
    row_names, rows = np.unique(rows, return_inverse=True)
    column_names, columns = np.unique(columns, return_inverse=True)
    size = len(row_names) + len(column_names)
    graph = coo_array((np.ones(len(rows)), (rows, columns + len(row_names))), shape=(size, size))
    _, component_of = connected_components(graph, directed=False)
    component = component_of[rows]
    order = np.argsort(component, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    return sum(_solve_dense(rows[part], columns[part], counts[part]) for part in parts)


def _solve_dense(rows: Int64, columns: Int64, counts: Int64) -> int:
    if len(counts) == 1:
        return int(counts[0])
    _, rows = np.unique(rows, return_inverse=True)
    _, columns = np.unique(columns, return_inverse=True)
    matrix = np.zeros((rows.max() + 1, columns.max() + 1))
    matrix[rows, columns] = counts
    return int(matrix[linear_sum_assignment(matrix, maximize=True)].sum())
