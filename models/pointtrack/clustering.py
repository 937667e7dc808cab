"""From the output of SpatialEmbedding to instances, one seed after the other.

Greedy, as in Neven et al. 2019: the best seed that is left proposes all pixels whose embedding lies
within its bandwidth. Everything is float32 and on the CPU, so a map has one result.

What costs time is to ask for every proposal which of all foreground pixels it holds. So the pixels
are sorted once, by the column of a coarse grid that they point to; a proposal then looks only at
the columns it can reach. A pixel belongs if exp(-d) > 0.5: away from d = ln 2 a comparison of d
says the same, and near it the exponential is taken after all.

Legend: H and W height and width of the map, M its foreground pixels, in row-major order.
"""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.pointtrack.coordinates import coordinate_lines

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

_FOREGROUND: Final = 0.5
"""Pixels with a seed score above this take part."""
_MEMBER: Final = 0.5
"""Pixels with a phi above this belong to the proposal."""

_SURE, _POSSIBLE = math.log(2) * (1 - 1e-5), math.log(2) * (1 + 1e-5)
"""Distances below the first are members and from the second on are not, whatever the rounding of
the exponential, which is wrong by far less than 80 units in the last place."""

_CELLS_PER_UNIT: Final = 63
"""Columns of the grid per unit of x: embeddings have an x from -1 to 3, so they are 0 to 252."""
_NUM_CELLS: Final = 256
_VECTOR: Final = 64
"""A multiple of what torch takes the sigmoid of at once on any processor."""
_BLOCK: Final = 256 * _VECTOR
"""So few values that torch does not split them between threads."""


class Clustering(NamedTuple):
    """Instances of one image."""

    instances: Int32
    """(H, W): 0 for none, else the id, from 1 in the order in which they were found. A later one
    takes pixels of earlier ones, so ids may be small or have no pixel left."""
    scores: Float32
    """(n,): seed score of the pixel that each id 1 to n started from."""


def cluster_instances(prediction: Tensor, *, seed_threshold: float, min_pixels: int) -> Int32:
    """The instances in one image's prediction; see `cluster_with_scores`.

    Returns:
        int32 (H, W), 0 for none.
    """
    found = cluster_with_scores(prediction, seed_threshold=seed_threshold, min_pixels=min_pixels)
    return found.instances


def cluster_with_scores(
    prediction: Tensor, *, seed_threshold: float, min_pixels: int
) -> Clustering:
    """The instances in one image's prediction, and the score of each.

    M are the pixels with a seed score above 0.5. As long as more than `min_pixels` of them are not
    clustered, the one with the best score among these (the first of equal ones) proposes, unless
    its score is below `seed_threshold`, which ends the search. The proposal is all of M with
    phi = exp(-sum of (e - c)^2 s over the axes) > 0.5, where c and s are embedding and bandwidth of
    that single pixel, which itself counts as clustered from then on. It becomes an instance if it
    has more than `min_pixels` pixels and more than half of them were not clustered, and then takes
    all its pixels, whomever they belonged to. They count as clustered in either case.

    Args:
        prediction: float32 (5, H, W), raw output of the network without padding: offset x and y,
            sigma x and y, seed. It is copied to the CPU if it is elsewhere.
        seed_threshold: smallest score that starts an instance, compared in double precision.
        min_pixels: limit of an instance's size and of what is left to search.

    Returns:
        The map and the scores. All zero and empty if there is too little foreground.

    Raises:
        ValueError: another shape or type, or an image larger than the fixed coordinates.

    >>> prediction = torch.zeros(5, 4, 6)
    >>> prediction[4, :, 1:4] = 4  # seed sigmoid(4); no offset, and e^0 = 1 is a huge radius
    >>> found = cluster_with_scores(prediction, seed_threshold=0.94, min_pixels=10)
    >>> found.instances[0].tolist(), found.scores.round(decimals=3).tolist()
    ([0, 1, 1, 1, 0, 0], [0.9819999933242798])
    """
    if prediction.ndim != 3 or prediction.shape[0] != 5 or prediction.dtype != torch.float32:
        raise ValueError(
            f"expected a float32 prediction (5, H, W), found {prediction.dtype} of shape "
            f"{tuple(prediction.shape)}"
        )
    height, width = prediction.shape[1:]
    x_line, y_line = (line.numpy() for line in coordinate_lines(height, width))
    channels = prediction.detach().cpu().flatten(1)
    pixels_M, seeds_M = _foreground(channels[4])
    if len(pixels_M) <= min_pixels:
        return Clustering(np.zeros((height, width), np.int32), np.zeros(0, np.float32))
    rows_M = pixels_M // width
    x_M = _embeddings(channels[0], pixels_M, x_line[pixels_M - rows_M * width])
    y_M = _embeddings(channels[1], pixels_M, y_line[rows_M])
    ids_M, scores = _cluster(
        _Foreground(x_M, y_M, channels[2:4].numpy(), pixels_M),
        seeds_M,
        seed_threshold=seed_threshold,
        min_pixels=min_pixels,
    )
    instances = np.zeros(height * width, np.int32)
    instances[pixels_M] = ids_M
    return Clustering(instances.reshape(height, width), np.array(scores, np.float32))


class _Foreground:
    """The pixels of M, sorted by the cell of the grid that their embedding lies in."""

    def __init__(self, x_M: Float32, y_M: Float32, sigmas: Float32, pixels_M: Int64) -> None:
        self._centres = x_M, y_M
        self._sigmas, self._pixels_M = sigmas, pixels_M
        with np.errstate(invalid="ignore"):  # NaN has no cell; it belongs to nothing in any of them
            cells_M = ((x_M + 1) * _CELLS_PER_UNIT).astype(np.uint8)
        self._order = np.argsort(cells_M, kind="stable")  # of bytes: one pass of counting
        self._x, self._y = x_M[self._order], y_M[self._order]
        edges = np.arange(_NUM_CELLS + 1)
        self._starts = np.searchsorted(cells_M[self._order], edges).tolist()
        self._buffers = np.empty_like(x_M), np.empty_like(x_M)

    def proposal(self, seed: int) -> Int64:
        """Rows in M of the pixels within the bandwidth of one of them, in no order."""
        sigma = torch.from_numpy(self._sigmas[:, self._pixels_M[seed]])
        scale_x, scale_y = (sigma * 10).exp().numpy()
        centre_x, centre_y = (values[seed] for values in self._centres)
        start, end = self._reach(float(centre_x), float(scale_x))
        distances, squares = (buffer[: end - start] for buffer in self._buffers)
        _scaled_squares(self._x[start:end], centre_x, scale_x, out=distances)
        _scaled_squares(self._y[start:end], centre_y, scale_y, out=squares)
        distances += squares
        inside = np.flatnonzero(distances < _POSSIBLE)
        near = distances[inside]
        if (near >= _SURE).any():
            phi = torch.from_numpy(-near).exp().numpy()
            inside = inside[phi > _MEMBER]
        return self._order[start:end][inside]

    def _reach(self, centre: float, scale: float) -> tuple[int, int]:
        """Where in the sorted pixels those begin and end whose x may be near enough."""
        radius = math.sqrt(_POSSIBLE / scale) if scale > 0 else math.inf
        if not math.isfinite(centre + radius):  # a NaN, or a scale of 0, which reaches everything
            return 0, len(self._x)
        # A cell more on each side outweighs all rounding.
        first = int((centre - radius + 1) * _CELLS_PER_UNIT) - 1
        last = int((centre + radius + 1) * _CELLS_PER_UNIT) + 1
        return (
            self._starts[min(max(first, 0), _NUM_CELLS)],
            self._starts[min(max(last + 1, 0), _NUM_CELLS)],
        )


def _cluster(
    foreground: _Foreground, seeds_M: Float32, *, seed_threshold: float, min_pixels: int
) -> tuple[Int32, list[np.float32]]:
    """The id of every pixel of M, 0 for none, and the score of every id."""
    open_M = seeds_M.copy()  # 0 once a pixel counts as clustered
    ids_M = np.zeros(len(seeds_M), np.int32)
    scores: list[np.float32] = []
    num_open = len(seeds_M)
    with np.errstate(over="ignore", invalid="ignore"):  # a bandwidth may be infinite
        while num_open > min_pixels:
            seed = int(open_M.argmax())
            if float(open_M[seed]) < seed_threshold:
                break
            open_M[seed] = 0
            members = foreground.proposal(seed)
            num_new = int(np.count_nonzero(open_M[members]))
            if len(members) > min_pixels and 2 * num_new > len(members):
                scores.append(seeds_M[seed])
                ids_M[members] = len(scores)
            open_M[members] = 0
            num_open -= num_new + 1
    return ids_M, scores


def _foreground(raw: Tensor) -> tuple[Int64, Float32]:
    """Pixels with a seed score above 0.5, flat, in row-major order, and their scores."""
    pixels = np.flatnonzero(raw.numpy() > 0)  # the sigmoid of anything else is at most 0.5
    seeds = _sigmoid(raw, pixels)
    is_foreground = seeds > _FOREGROUND
    if is_foreground.all():
        return pixels, seeds
    return pixels[is_foreground], seeds[is_foreground]


def _sigmoid(raw: Tensor, pixels: Int64) -> Float32:
    """What `raw.sigmoid()` of one thread gives at these pixels, whatever the number of threads.

    The last few values, which fill no vector, have a sigmoid that is rounded differently, and where
    they are depends on how many values a thread gets.
    """
    padded = torch.zeros(-(-len(pixels) // _VECTOR) * _VECTOR)
    values = padded[: len(pixels)]
    torch.index_select(raw, 0, torch.from_numpy(pixels), out=values)
    for start in range(0, len(padded), _BLOCK):
        padded[start : start + _BLOCK].sigmoid_()
    last = len(raw) // _VECTOR * _VECTOR
    in_tail = np.searchsorted(pixels, last)
    tail = raw[last:].sigmoid()
    values[in_tail:] = tail[torch.from_numpy(pixels[in_tail:] - last)]
    return values.numpy()


def _embeddings(offsets: Tensor, pixels: Int64, coordinates: Float32) -> Float32:
    """Offset and coordinate together, along one axis."""
    embeddings: Float32 = offsets.index_select(0, torch.from_numpy(pixels)).tanh_().numpy()
    embeddings += coordinates
    return embeddings


def _scaled_squares(
    values: Float32, centre: np.float32, scale: np.float32, *, out: Float32
) -> None:
    np.subtract(values, centre, out=out)
    np.multiply(out, out, out=out)
    np.multiply(out, scale, out=out)
