"""Instances as points: what the association network sees of a mask.

Every instance becomes foreground points, drawn from its own pixels, and environment points, drawn
from the other pixels of a window around it. The PointTrack release cuts this window in two ways,
which differ by a pixel here and there, and both are kept because both decide which numbers come
out: `instance_crops` and `crop_points` are the way of its training, `frame_points` is that of its
tracking.

A point is [blue, green, red, offset v, offset u, category 0, category 1, category 2]. Colours are
divided by 255. v runs downwards, u to the right; offsets are from the mean of the instance's own
pixels inside the window, in units of 128 pixels. The category of a foreground point is 0, 0, 0.
Values are those of float64 arithmetic rounded to float32 once.

Random numbers are those of NumPy's legacy generator in the order of the release.

Legend: N instances, P points of one, F foreground points, H and W rows and columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

NUM_POINTS: Final = 1000
"""Foreground points of an instance in the published network."""
NUM_ENVIRONMENT_POINTS: Final = 500
"""Environment points likewise."""
NUM_VALUES: Final = 8
"""Values of a point."""
OFFSET_NOISE: Final = 0.001
"""Standard deviation of the noise on offsets in published training, in units of 128 pixels."""

BACKGROUND: Final = 0
ITSELF: Final = 1
OTHER_INSTANCE: Final = 2
PADDING: Final = 3

_MAX_COLOUR: Final = 255
_OFFSET_UNIT: Final = 128
_POSITION_UNITS: Final = np.array([1242.0, 375.0, 1242.0, 375.0])  # of KITTI, whatever the image
_ENLARGEMENT: Final = 0.2
_LARGEST_TABLE: Final = 1 << 16

_CATEGORY_VALUES: Final = np.array(
    [
        [0.9479751586914062, 0.4561353325843811, 0.16707628965377808],
        [0.1, -0.1, 0.1],
        [0.5455077290534973, -0.6193588972091675, -2.629554510116577],
        [-0.1, 0.1, -0.1],
    ]
).astype(np.float32)
"""Values of a category, by its number above; constants of the release, for every class."""


class Window(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of an image."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, kw_only=True, eq=False)
class InstanceCrop:
    """One instance of one frame as training stores it."""

    identity: int
    """As in the map that it was cut from."""
    start: tuple[int, int]
    """(v, u) of the crop's first pixel in the image."""
    image_bgr: UInt8
    """(h, w, 3) blue, green, red."""
    mask: UInt8
    """(h, w) 1 on the instance, else 0."""
    categories: UInt8
    """(h, w) 0 background, 1 the instance, 2 another instance, 3 padding."""


def frame_points(
    image_bgr: UInt8,
    instance_map: npt.NDArray[np.integer[Any]],
    rng: np.random.RandomState,
    *,
    num_points: int = NUM_POINTS,
    num_environment_points: int = NUM_ENVIRONMENT_POINTS,
) -> tuple[Float32, Float32]:
    """Points and positions of all instances of a frame, by the rule of tracking.

    The window is the instance's bounding box with height and width h, w, enlarged by int(0.2 h)
    and int(0.2 w) pixels on each side, without the last row and the last column of the image: as
    released, pixels there are never seen. Where nothing of the instance is left, the release
    stops with an error; here such an instance gets a window that includes the last row and column.
    A window without any other pixel than the instance's gives environment points that are all 0,
    and draws no random numbers for them, as released.

    For each instance, in ascending order of its number, the foreground is drawn and then the
    environment, uniformly and with replacement from the pixels in row-major order. A map without
    any 0 loses no instance here; the release would take its lowest number for the background.

    Args:
        image_bgr: uint8 (H, W, 3), blue, green, red.
        instance_map: integers (H, W), 0 where there is no instance; any numbers, any gaps.
        rng: source of the draws; it moves on, so the next frame draws others.
        num_points: F foreground points of each instance.
        num_environment_points: environment points of each, which come last.

    Returns:
        Points, float32 (N, P, 8) as the module describes, in ascending order of the instances'
        numbers, and their positions, float32 (N, 4): first column, first row, last column and last
        row of the whole mask over 1242, 375, 1242 and 375, whatever the size of the image. Without
        instances N is 0.

    Raises:
        ValueError: an image or a map of another kind or size, or a negative number in the map.

    >>> image = np.full((375, 1242, 3), 51, np.uint8)
    >>> instances = np.zeros((375, 1242), np.int32)
    >>> instances[75:150, 621] = 7
    >>> points, positions = frame_points(image, instances, np.random.RandomState(0))
    >>> points.shape, points[0, 0, :3].tolist(), positions.tolist()[0][:2]
    ((1, 1500, 8), [0.20000000298023224, 0.20000000298023224, 0.20000000298023224], [0.5, 0.2...
    """
    _check_frame(image_bgr, instance_map)
    boxes = list(_bounding_boxes(instance_map))
    points = np.zeros((len(boxes), num_points + num_environment_points, NUM_VALUES), np.float32)
    positions = np.array([_position(box) for _, box in boxes], np.float32).reshape(-1, 4)
    if not boxes:
        return points, positions
    drawn = np.zeros(points.shape[:2], np.int64)  # place in the window, row by row
    windows = np.zeros((len(boxes), 3), np.int64)
    centres = np.zeros((len(boxes), 2))
    without_environment = []
    for row, (number, box) in enumerate(boxes):
        window, is_own = _cut_out(instance_map, number, box)
        width = window.right - window.left
        own, others = np.flatnonzero(is_own), np.flatnonzero(~is_own)
        drawn[row, :num_points] = own.take(_draw(rng, len(own), num_points))
        if len(others):
            choice = _draw(rng, len(others), num_environment_points)
            drawn[row, num_points:] = others.take(choice)
        else:
            without_environment.append(row)
        windows[row] = window.top, window.left, width
        sum_v = int((own // width).sum())
        centres[row] = sum_v / len(own), (int(own.sum()) - width * sum_v) / len(own)

    tops, lefts, widths = windows.T[..., None]
    v = drawn // widths
    u = drawn - v * widths
    pixels = (v + tops) * image_bgr.shape[1] + (u + lefts)
    # Quotients of small whole numbers round to the same float32 with and without float64 between.
    np.divide(
        image_bgr.reshape(-1, 3).take(pixels, axis=0),
        np.float32(_MAX_COLOUR),
        out=points[..., :3],
        dtype=np.float32,
    )
    points[..., 3] = (v - centres[:, :1]) / _OFFSET_UNIT
    points[..., 4] = (u - centres[:, 1:]) / _OFFSET_UNIT
    shown = instance_map.reshape(-1).take(pixels[:, num_points:]) != 0
    points[:, num_points:, 5:] = _CATEGORY_VALUES.take(shown * OTHER_INSTANCE, axis=0)
    points[without_environment, num_points:] = 0
    return points, positions


def instance_crops(
    image_bgr: UInt8, identity_map: npt.NDArray[np.integer[Any]]
) -> list[InstanceCrop]:
    """Cut out every instance of a frame as training stores them.

    Rows v0 to v1 and columns u0 to u1 of the instance, both included, are enlarged by
    int(0.2 (v1 - v0)) and int(0.2 (u1 - u0)) on each side as far as the image goes.

    Args:
        image_bgr: uint8 (H, W, 3), blue, green, red.
        identity_map: integers (H, W): the identity where there is an instance of the class, 0
            everywhere else, also on other classes and in regions to ignore.

    Returns:
        One crop per identity in ascending order, with pixels of its own; none for an empty map.

    Raises:
        ValueError: an image or a map of another kind or size, or a negative number in the map.

    >>> identities = np.zeros((10, 20), np.int32)
    >>> identities[1:7, 5:16] = 1003
    >>> [crop] = instance_crops(np.zeros((10, 20, 3), np.uint8), identities)
    >>> crop.start, crop.mask.shape
    ((0, 3), (8, 15))
    """
    _check_frame(image_bgr, identity_map)
    crops = []
    for number, box in _bounding_boxes(identity_map):
        window = _enlarge(
            box, box.bottom - 1 - box.top, box.right - 1 - box.left, limits=identity_map.shape
        )
        shown = identity_map[window.slices]
        mask = (shown == number).astype(np.uint8)
        crops.append(
            InstanceCrop(
                identity=number,
                start=(window.top, window.left),
                image_bgr=image_bgr[window.slices].copy(),
                mask=mask,
                categories=np.where(mask, ITSELF, (shown != 0) * OTHER_INSTANCE).astype(np.uint8),
            )
        )
    return crops


def crop_points(
    crop: InstanceCrop,
    rng: np.random.RandomState,
    *,
    offset_noise: float = OFFSET_NOISE,
    num_points: int = NUM_POINTS,
    num_environment_points: int = NUM_ENVIRONMENT_POINTS,
) -> tuple[Float32, Float32]:
    """Points and position of one stored instance, by the rule of training.

    In the order of the release, random numbers are drawn for: noise on v and then on u of every
    environment pixel, the choice of environment points, noise on v and on u of every pixel of the
    instance, the choice of foreground points. Without noise only the choices are drawn.

    Args:
        crop: of `instance_crops`.
        rng: source of noise and draws.
        offset_noise: standard deviation of normal noise on offsets, in units of 128 pixels; 0 for
            none.
        num_points: F foreground points.
        num_environment_points: environment points; all 0 if the crop shows nothing but the
            instance.

    Returns:
        Points, float32 (P, 8), and position, float32 (4,), as of `frame_points`.

    Raises:
        ValueError: a crop whose mask is empty.
    """
    own_v, own_u = np.nonzero(crop.mask)
    if not len(own_v):
        raise ValueError(
            f"the crop of identity {crop.identity} at {crop.start} has an empty mask, expected at "
            "least one pixel of the instance"
        )
    points = np.zeros((num_points + num_environment_points, NUM_VALUES), np.float32)
    centre = own_v.mean(), own_u.mean()
    other_v, other_u = np.nonzero(crop.mask == 0)
    environment = points[num_points:]
    if len(other_v):
        chosen = _fill(environment, crop, other_v, other_u, centre, rng, offset_noise)
        categories = crop.categories[other_v[chosen], other_u[chosen]]
        environment[:, 5:] = _CATEGORY_VALUES[categories]
    _fill(points[:num_points], crop, own_v, own_u, centre, rng, offset_noise)
    top, left = crop.start
    box = Window(
        top + int(own_v.min()),
        top + int(own_v.max()) + 1,
        left + int(own_u.min()),
        left + int(own_u.max()) + 1,
    )
    return points, _position(box).astype(np.float32)


def _fill(
    points: Float32,
    crop: InstanceCrop,
    v: npt.NDArray[np.int64],
    u: npt.NDArray[np.int64],
    centre: tuple[float, float],
    rng: np.random.RandomState,
    offset_noise: float,
) -> npt.NDArray[np.int64]:
    """Colours and offsets of points drawn from the pixels at v, u; returns which were drawn."""
    noise = [rng.normal(0.0, offset_noise, len(v)) for _ in range(2)] if offset_noise else None
    chosen = _draw(rng, len(v), len(points))
    points[:, :3] = crop.image_bgr[v[chosen], u[chosen]] / _MAX_COLOUR
    for axis, places in enumerate((v, u)):
        offsets = (places[chosen] - centre[axis]) / _OFFSET_UNIT
        points[:, 3 + axis] = offsets if noise is None else offsets + noise[axis][chosen]
    return chosen


def _draw(rng: np.random.RandomState, num_candidates: int, count: int) -> npt.NDArray[np.int64]:
    """The numbers of `rng.choice(num_candidates, count)`, which takes three times as long."""
    return rng.randint(0, num_candidates, count)


def _cut_out(
    instance_map: npt.NDArray[np.integer[Any]], number: int, box: Window
) -> tuple[Window, npt.NDArray[np.bool_]]:
    """The window of tracking, and (h, w) which of its pixels are the instance's own."""
    height, width = instance_map.shape
    sizes = box.bottom - box.top, box.right - box.left
    window = _enlarge(box, *sizes, limits=(height - 1, width - 1))
    is_own = instance_map[window.slices] == number
    if not is_own.any():  # it lies on the last row or column alone
        window = _enlarge(box, *sizes, limits=(height, width))
        is_own = instance_map[window.slices] == number
    return window, is_own


def _enlarge(box: Window, height: int, width: int, *, limits: tuple[int, ...]) -> Window:
    """More by a fifth of the given sizes on each side, down to 0 and up to the limits."""
    rows, columns = int(_ENLARGEMENT * height), int(_ENLARGEMENT * width)
    return Window(
        max(0, box.top - rows),
        min(box.bottom + rows, limits[0]),
        max(0, box.left - columns),
        min(box.right + columns, limits[1]),
    )


def _bounding_boxes(
    instance_map: npt.NDArray[np.integer[Any]],
) -> Iterator[tuple[int, Window]]:
    """Every number but 0 of the map, ascending, with the rows and columns that it covers."""
    largest = int(instance_map.max(initial=0))
    numbers: npt.NDArray[Any] | range = range(1, largest + 1)
    labels = instance_map
    if largest > _LARGEST_TABLE:
        numbers, labels = np.unique(instance_map[instance_map > 0]), np.zeros_like(instance_map)
        labels[instance_map > 0] = 1 + np.searchsorted(numbers, instance_map[instance_map > 0])
    found = find_objects(labels, len(numbers)) if len(numbers) else []
    for number, slices in zip(numbers, found, strict=True):
        if slices is not None:
            rows, columns = slices
            yield int(number), Window(rows.start, rows.stop, columns.start, columns.stop)


def _position(box: Window) -> npt.NDArray[np.float64]:
    corners = np.array([box.left, box.top, box.right - 1, box.bottom - 1])
    shares: npt.NDArray[np.float64] = corners / _POSITION_UNITS
    return shares


def _check_frame(image_bgr: UInt8, instance_map: npt.NDArray[np.integer[Any]]) -> None:
    if image_bgr.dtype != np.uint8 or image_bgr.ndim != 3 or image_bgr.shape[2] != 3:
        raise ValueError(
            f"the image is {image_bgr.dtype} of shape {image_bgr.shape}, expected uint8 (H, W, 3)"
        )
    is_map = np.issubdtype(instance_map.dtype, np.integer) and instance_map.ndim == 2
    if not is_map or instance_map.shape != image_bgr.shape[:2]:
        raise ValueError(
            f"the map is {instance_map.dtype} of shape {instance_map.shape}, expected integers of "
            f"the image's shape {image_bgr.shape[:2]}"
        )
    if instance_map.min(initial=0) < 0:
        raise ValueError(
            f"the map holds {instance_map.min()}, expected 0 where there is no instance and "
            "numbers above it where there is one"
        )
