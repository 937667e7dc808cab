"""The PNG format of KITTI MOTS: one 16-bit map a frame, whose values are class * 1000 + instance.

0 is background. A frame without objects has a map of zeros.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datasets.kitti_mots import VALUES_PER_CLASS
from datasets.label_png import read_label_png
from datasets.masks import Rle, decode_mask, split_instances
from datasets.mots_rows import MotsRow, RowRules, keep_good_rows
from datasets.reading import Reporter, numbered_files

InstanceMap = npt.NDArray[np.uint16]


def read_map(path: Path) -> InstanceMap:
    """(H, W) the values of one file, unchanged.

    Raises:
        ValueError: absent, cut short, corrupt, or anything else than a 16-bit grey PNG.
    """
    return read_label_png(path, bits=16, colours="grey")


def write_map(path: Path, instance_map: npt.NDArray[np.integer]) -> None:
    """Write the values of one frame, (H, W), each 0 to 65535.

    Raises:
        ValueError: another shape, or a value that does not fit.
    """
    import cv2

    if instance_map.ndim != 2 or not instance_map.size:
        raise ValueError(f"{path}: a map has the shape {instance_map.shape}, expected (H, W)")
    if instance_map.min() < 0 or instance_map.max() > np.iinfo(np.uint16).max:
        found = f"{instance_map.min()} to {instance_map.max()}"
        raise ValueError(f"{path}: values are {found}, expected 0 to 65535")
    done, data = cv2.imencode(".png", instance_map.astype(np.uint16))
    assert done
    path.write_bytes(data.tobytes())


def paint_map(masks: Sequence[Rle], values: Sequence[int], size: Sequence[int]) -> InstanceMap:
    """(H, W) the map of disjoint masks.

    Args:
        masks: N masks of one frame.
        values: (N,) class * 1000 + instance of each.
        size: Height and width, for a frame without a mask.

    >>> paint_map([{"size": [2, 2], "counts": b"22"}], [1005], (2, 2)).tolist()
    [[0, 1005], [0, 1005]]
    """
    height, width = size
    instance_map = np.zeros((height, width), np.uint16)
    for mask, value in zip(masks, values, strict=True):
        instance_map[decode_mask(mask)] = value
    return instance_map


def read_folder(
    folder: Path, rules: RowRules, reporter: Reporter
) -> tuple[list[MotsRow], dict[int, Path]]:
    """Objects of all maps of a folder by frame and value, and the map of each frame.

    What is broken is reported with file and frame and left out; a number that is missing inside
    is reported, and a frame without objects.
    """
    files = numbered_files(folder, (".png",), reporter, first_frame=rules.first_frame)
    missing = [index for index in range(max(files, default=-1)) if index not in files]
    if missing:
        name = f"{missing[0] + rules.first_frame:06d}.png"
        what = f"there is no {name} ({len(missing)} maps are missing); every frame has a map, "
        reporter.report(str(folder), what + "also one without objects")
    rows: list[MotsRow] = []
    for index, path in files.items():
        try:
            instance_map = read_map(path)
        except ValueError as error:
            reporter.report(f"{folder}, frame {index + rules.first_frame}", str(error))
            continue
        where = f"{path}, frame {index + rules.first_frame}"
        rows += _map_rows(instance_map, index, where, rules, reporter)
    return keep_good_rows(rows, reporter), files


def _map_rows(
    instance_map: InstanceMap, index: int, where: str, rules: RowRules, reporter: Reporter
) -> list[MotsRow]:
    rows = []
    for value, mask in split_instances(instance_map).items():
        class_id = value // VALUES_PER_CLASS
        try:
            rules.check(value, class_id)
        except ValueError as error:
            reporter.report(where, str(error))
        else:
            rows.append(MotsRow(index, value, class_id, mask, where))
    return rows
