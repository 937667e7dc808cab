"""Masks: every operation against pixels, and codes that pycocotools would misread."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco

from datasets.masks import (
    Rle,
    check_mask,
    covered_by,
    decode_mask,
    encode_instances,
    encode_mask,
    find_fault,
    find_overlap,
    inspect_masks,
    mask_areas,
    mask_boxes,
    mask_iou,
    merge_masks,
    remove_overlaps,
    split_instances,
    touching_boxes,
)

Bool = npt.NDArray[np.bool_]


def random_masks(seed: int, count: int, size: tuple[int, int] = (23, 31)) -> Bool:
    """(N, H, W) blobs of rectangles with holes; the first one is empty."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), bool)
    for mask in masks[1:]:
        for filled in (True, True, False):
            top, left = rng.integers(0, size)
            height, width = rng.integers(1, 15, 2)
            mask[top : top + height, left : left + width] = filled
    return masks


def codes_of(masks: Bool) -> list[Rle]:
    return [encode_mask(mask) for mask in masks]


def official(mask: npt.NDArray[Any]) -> Any:
    return coco.encode(np.asfortranarray(mask, np.uint8))


def raw(counts: list[int], height: int, width: int) -> Rle:
    """A code of given runs, unchecked."""
    code: Rle = coco.frPyObjects([{"size": [height, width], "counts": counts}], height, width)[0]
    return code


def test_encoding_is_the_official_one_and_decoding_gives_the_mask_back() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mask = rng.random(tuple(rng.integers(1, 40, 2))) < rng.random()
        code = encode_mask(mask)
        assert code == official(mask)
        assert np.array_equal(decode_mask(code), mask)
        assert decode_mask(code).dtype == bool


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, np.uint16])
def test_whatever_is_not_zero_belongs_to_a_mask(kind: Any) -> None:
    mask = np.array([[0, 1], [255, 0]], kind)
    assert encode_mask(mask) == official(mask != 0)


class TestInstances:
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_each_instance_is_encoded_as_its_mask(self, order: Any) -> None:
        for seed in range(20):
            rng = np.random.default_rng(seed)
            size = tuple(rng.integers(1, 30, 2))
            values = np.array([0, 0, 3, 1005, 60000], np.uint16)
            instance_map = np.asarray(values[rng.integers(0, 5, size)], order=order)
            found = split_instances(instance_map)
            assert list(found) == [v for v in np.unique(instance_map).tolist() if v]
            for value, code in found.items():
                assert code == official(instance_map == value)
                assert find_fault(code) is None

    def test_ids_are_served_in_their_order_and_absent_ones_are_empty(self) -> None:
        instance_map = np.array([[7, 7, 3], [0, 7, 3]])
        codes = encode_instances(instance_map, [3, 9, 7])
        assert codes == [official(instance_map == value) for value in (3, 9, 7)]
        assert encode_instances(instance_map, []) == []

    def test_a_map_of_one_value(self) -> None:
        assert split_instances(np.zeros((3, 4), int)) == {}
        assert split_instances(np.full((3, 4), 5)) == {5: official(np.ones((3, 4)))}

    def test_the_background_may_be_another_value(self) -> None:
        instance_map = np.array([[-1, 0]])
        assert list(split_instances(instance_map, background=-1)) == [0]


class TestNumbers:
    @pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 300])
    def test_areas_and_boxes_are_those_of_the_pixels(self, count: int) -> None:
        # pycocotools' own area fails for more than 255 masks.
        masks = random_masks(1, count)
        codes = codes_of(masks)
        assert mask_areas(codes).tolist() == masks.sum((1, 2)).tolist()
        assert mask_areas(codes).dtype == np.int64
        boxes = mask_boxes(codes)
        assert boxes.shape == (count, 4)
        for mask, box in zip(masks, boxes, strict=True):
            rows, columns = np.nonzero(mask)
            expected = [0, 0, 0, 0]
            if len(rows):
                expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == expected

    def test_overlaps_are_those_of_the_pixels(self) -> None:
        masks = random_masks(2, 12)
        first, second = masks[:5], masks[3:]
        shared = (first[:, None] & second[None]).sum((2, 3))
        union = (first[:, None] | second[None]).sum((2, 3))
        iou = mask_iou(codes_of(first), codes_of(second))
        assert np.allclose(iou, shared / np.maximum(union, 1), rtol=0, atol=1e-15)
        cover = covered_by(codes_of(first), codes_of(second))
        own = np.maximum(first.sum((1, 2)), 1)[:, None]
        assert np.allclose(cover, shared / own, rtol=0, atol=1e-15)

    def test_of_no_masks(self) -> None:
        codes = codes_of(random_masks(3, 2))
        assert mask_iou([], codes).shape == (0, 2)
        assert mask_iou(codes, []).shape == (2, 0)
        assert covered_by([], []).shape == (0, 0)

    def test_masks_of_other_images_are_not_compared(self) -> None:
        small, large = encode_mask(np.ones((3, 4))), encode_mask(np.ones((4, 3)))
        for compare in (mask_iou, covered_by):
            with pytest.raises(ValueError, match=r"mask 0 .*\[3, 4\].* mask 1 of \[4, 3\]"):
                compare([small], [small, large])

    def test_the_union(self) -> None:
        masks = random_masks(4, 5)
        assert np.array_equal(decode_mask(merge_masks(codes_of(masks))), masks.any(0))


class TestOverlaps:
    def test_the_first_pair_is_found(self) -> None:
        for seed in range(20):
            masks = random_masks(seed, 4)
            shared = np.triu((masks[:, None] & masks[None]).any((2, 3)), 1)
            pairs = list(zip(*(a.tolist() for a in np.nonzero(shared)), strict=True))
            assert find_overlap(codes_of(masks)) == (pairs[0] if pairs else None)

    @pytest.mark.parametrize("count", [0, 1])
    def test_few_masks_do_not_overlap(self, count: int) -> None:
        assert find_overlap(codes_of(random_masks(0, count))) is None

    def test_pixels_stay_with_the_highest_score(self) -> None:
        for seed in range(30):
            masks = random_masks(seed, 6)
            # Ties are frequent, and served in the order of the masks.
            scores = np.random.default_rng(seed).integers(0, 3, 6) / 2
            taken = np.zeros(masks.shape[1:], bool)
            expected = np.zeros_like(masks)
            for place in sorted(range(6), key=lambda p: (-scores[p], p)):
                expected[place] = masks[place] & ~taken
                taken |= masks[place]
            disjoint = remove_overlaps(codes_of(masks), scores)
            assert np.array_equal([decode_mask(code) for code in disjoint], expected)
            assert find_overlap(disjoint) is None

    def test_masks_without_overlap_come_back_as_they_are(self) -> None:
        codes = list(split_instances(np.array([[1, 1, 2], [0, 2, 2]])).values())
        disjoint = remove_overlaps(codes, np.array([0.1, 0.9]))
        assert all(a is b for a, b in zip(codes, disjoint, strict=True))
        assert remove_overlaps([], np.zeros(0)) == []


class TestFaults:
    def test_whole_codes_pass(self) -> None:
        for mask in random_masks(5, 30):
            code = encode_mask(mask)
            assert check_mask(code, "x") is code

    def test_trailing_runs_of_no_pixel_are_harmless(self) -> None:
        assert find_fault(raw([0, 12], 3, 4)) is None
        assert find_fault(raw([5, 7, 0], 3, 4)) is None

    def test_a_code_that_is_cut_short_anywhere_is_caught(self) -> None:
        code = encode_mask(random_masks(6, 2, (375, 1242))[1])
        for length in range(len(code["counts"])):
            cut: Rle = {"size": code["size"], "counts": code["counts"][:length]}
            with pytest.raises(ValueError, match=r"a\.txt, line 3: .*(cut short|no COCO)"):
                check_mask(cut, "a.txt, line 3")

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ({"size": [2, 2], "counts": b""}, "no COCO run-length code: b''"),
            ({"size": [2, 2], "counts": b"2 2"}, "no COCO"),
            ({"size": [2, 2], "counts": b"2~2"}, "no COCO"),
            ({"size": [2, 2], "counts": "2ä".encode()}, "no COCO"),
            ({"size": [2, 2], "counts": b"2R"}, "no COCO"),
            ({"size": [2, 2], "counts": b"R" * 7 + b"2"}, "no COCO"),
            ({"size": [2, 2], "counts": b"R" * 99}, r"no COCO .*\.\.\.$"),
            ({"size": [2, 3], "counts": b"22"}, "cover 4 pixels, expected 2 x 3 = 6"),
            ({"size": [2, 1], "counts": b"22"}, "cover 4 pixels, expected 2 x 1 = 2"),
            ({"size": [0, 4], "counts": b"0"}, "image of 0 x 4 pixels"),
            ({"size": [-2, -2], "counts": b"22"}, "image of -2 x -2"),
            ({"size": [65536, 1], "counts": b"22"}, "from 1 to 65535"),
            (raw([2, 0, 2], 2, 2), "length 0"),
            ({"size": [2, 2], "counts": b"3N3"}, "length -2"),
            ({"size": [2, 2], "counts": b"132L"}, "length -1"),
        ],
    )
    def test_what_is_wrong_is_said(self, code: Rle, message: str) -> None:
        with pytest.raises(ValueError, match=f"^here: .*({message})"):
            check_mask(code, "here")

    def test_a_size_that_is_swapped_is_not_seen_by_itself(self) -> None:
        # The runs add up either way: only another mask of the image tells.
        code = encode_mask(np.ones((3, 4)))
        assert find_fault({"size": [4, 3], "counts": code["counts"]}) is None


def corrupted(code: Rle, rng: np.random.Generator) -> Rle:
    """The code with up to three small accidents, most of which break it."""
    counts, size = bytearray(code["counts"]), list(code["size"])
    for _ in range(rng.integers(4)):
        place = int(rng.integers(len(counts) + 1))
        match rng.integers(8):
            case 0:
                del counts[place:]
            case 1:
                counts[place:place] = bytes(rng.integers(0, 256, 1).tolist())
            case 2:
                counts[place:place] = bytes(rng.integers(48, 112, rng.integers(9)).tolist())
            case 3:
                counts[place : place + 1] = bytes(rng.integers(48, 112, 1).tolist())
            case 4:
                counts[place:place] = b"0"
            case 5:
                del counts[place : place + 2]
            case 6:
                size[rng.integers(2)] += int(rng.integers(-3, 3))
            case _:
                size = [[0, 4], [65535, 65535], [65536, 1], [10**18, 10**18], [-3, -4]][
                    rng.integers(5)
                ]
    return {"size": size, "counts": bytes(counts)}


def assert_as_one_by_one(codes: list[Rle]) -> None:
    expected = {place: find_fault(code) for place, code in enumerate(codes)}
    found = inspect_masks(codes)
    assert found.faults == {place: fault for place, fault in expected.items() if fault}
    assert found.areas.dtype == np.int64
    areas = [0 if expected[i] else int(coco.area(code)) for i, code in enumerate(codes)]
    assert found.areas.tolist() == areas


class TestManyAtOnce:
    @pytest.mark.parametrize("seed", range(60))
    def test_faults_and_areas_are_those_of_the_codes_one_by_one(
        self, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rng = np.random.default_rng(seed)
        monkeypatch.setattr("datasets.masks._BYTES_AT_ONCE", [1, 40, 300, 1 << 17][seed % 4])
        codes = codes_of(random_masks(seed, 25, tuple(rng.integers(2, 400, 2))))
        codes += [encode_mask(rng.random((9, 7)) < rng.random()) for _ in range(25)]
        assert_as_one_by_one(codes)
        assert_as_one_by_one([corrupted(code, rng) for code in codes])

    def test_every_fault_is_met(self) -> None:
        rng = np.random.default_rng(0)
        codes = [corrupted(code, rng) for code in codes_of(random_masks(1, 30)) for _ in range(40)]
        told = " ".join(inspect_masks(codes).faults.values())
        for words in ("no COCO", "has the length 0", "has the length -", "runs of the mask cover"):
            assert words in told
        assert "the mask is of an image" in told

    @pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 300])
    def test_any_number_of_codes(self, count: int) -> None:
        assert_as_one_by_one(codes_of(random_masks(1, count)))

    @pytest.mark.parametrize(
        "code",
        [
            raw([0, 12], 3, 4),
            raw([5, 7, 0], 3, 4),
            raw([12], 3, 4),
            raw([0, 0, 12], 3, 4),
            raw([65535 * 65535 - 9, 9], 65535, 65535),
            raw([1, 2**30 - 1], 2**15, 2**15),
            raw([0, 2**30 - 1, 1], 2**15, 2**15),
            raw([1, 2**29 - 1, 2**29 - 1, 1], 2**15, 2**15),
            # Lengths that come to the right sum modulo 2^32, or leave 32 bits and come back.
            {"size": [2, 2], "counts": b"00" + b"ooooo?" * 8},
            {"size": [2, 2], "counts": b"2" + b"PPPPP@" * 16 + b"2"},
            {"size": [2, 2], "counts": b"PPPPPP2"},
            {"size": [2, 2], "counts": b"R" * 40 + b"2"},
            {"size": [2, 2], "counts": b""},
            {"size": [2, 2], "counts": b"\x00/~\xff"},
        ],
    )
    def test_extreme_codes_do_not_disturb_their_neighbours(self, code: Rle) -> None:
        plain = encode_mask(np.eye(5))
        for codes in ([code], [plain, code], [code, plain], [plain, code, code, plain]):
            assert_as_one_by_one(codes)


def test_boxes_that_touch_are_those_that_share_area_in_their_frame() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        frames = np.sort(rng.integers(0, 6, 30))
        corners = rng.integers(0, 25, (30, 2)).astype(float)
        boxes = np.concatenate([corners, corners + rng.integers(0, 6, (30, 2))], axis=1)
        expected = [
            any(
                i != j
                and frames[i] == frames[j]
                and (np.maximum(a, b)[:2] < np.minimum(a, b)[2:]).all()
                for j, b in enumerate(boxes)
            )
            for i, a in enumerate(boxes)
        ]
        assert touching_boxes(frames, boxes).tolist() == expected
    assert touching_boxes(np.zeros(0, int), np.zeros((0, 4))).tolist() == []
