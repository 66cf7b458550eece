"""Parts of scenes: regions, layers, blocks; only what is needed is read."""

import numpy as np
import pytest

import compand
from compand import FormatError, InputError
from compand.modality import pack
from compand.modality.splats import Scene, from_file, order, write
from compand.modality.splats.part import LEAST, boxes, layer_rows, layered, part, stream, weight

SPEC = "splat:block=512"


@pytest.fixture
def packed(scene, tmp_path):
    write(tmp_path / "s.ply", scene(4000, 1))
    pack(tmp_path / "s.ply", tmp_path / "s.cpd", spec=SPEC)
    return tmp_path / "s.cpd"


def test_a_region_is_what_lies_in_it_and_only_its_blocks_are_decoded(packed, monkeypatch):
    with compand.open(packed) as file:
        whole, read = from_file(file), []
        decode = compand.Codec.decode_block
        monkeypatch.setattr(compand.Codec, "decode_block", lambda self, block, *a: read.append(block.rows) or decode(self, block, *a))
        box = (0.2, 0.2, 0.2, 2, 2, 2)
        some = part(file, region=box)
        inside = ((whole.positions >= box[:3]) & (whole.positions <= box[3:])).all(1)
        assert 0 < inside.sum() < 2000 and np.array_equal(some.positions, whole.positions[inside])
        assert np.array_equal(some.sh_rest, whole.sh_rest[inside]) and 0 < len(read) < 8
        read.clear()
        assert len(part(file, region=(50, 50, 50, 60, 60, 60))) == 0 and not read


def test_boxes_hold_what_is_decoded(packed):
    with compand.open(packed) as file:
        entry = file["splats"]
        assert entry.block_rows == 512 and len(entry.attrs["boxes"]) == 8
        for i, box in enumerate(entry.attrs["boxes"]):
            x = entry.array(rows=slice(512 * i, 512 * i + 512))[:, :3]
            assert (x >= box[:3]).all() and (x <= box[3:]).all()


def test_layers_draw_the_most_first(scene, tmp_path):
    s = scene(6000, 1)
    rows = layer_rows(len(s))
    which, ends = layered(s, rows)
    assert rows == 750 and ends == [750, 1500, 3000, 6000] and np.array_equal(np.sort(which), np.arange(6000))
    w = weight(s)[which]
    assert all(w[:e].min() >= w[e:].max() for e in ends[:-1])
    assert np.array_equal(order(s.positions[which[:750]]), np.arange(750))
    write(tmp_path / "s.ply", s)
    source = Scene(tmp_path / "s.ply", layers=True)
    pack(source, tmp_path / "s.cpd", spec="splat" + source.suffix)
    with compand.open(tmp_path / "s.cpd") as file:
        whole = from_file(file)
        for i, end in enumerate(ends, 1):
            assert np.array_equal(part(file, layers=i).positions, whole.positions[:end])
        with pytest.raises(InputError, match="4 layers"):
            part(file, layers=5)
    assert layer_rows(10) == LEAST and layered(s.take(slice(0, 0)), 512)[1] == [0]


def test_stream_is_the_scene_in_pieces(packed):
    with compand.open(packed) as file:
        pieces = list(stream(file))
        assert [len(p) for p in pieces] == [512] * 7 + [416]
        assert np.array_equal(np.concatenate([p.positions for p in pieces]), from_file(file).positions)


def test_scenes_without_boxes_or_layers(scene, tmp_path):
    write(tmp_path / "s.ply", scene(600, 0))
    pack(tmp_path / "s.ply", tmp_path / "exact.cpd", lossless=True)
    with compand.open(tmp_path / "exact.cpd") as file:
        some = part(file, region=(0, 0, 0, 2, 2, 2))
        assert 0 < len(some) < 600 and (some.positions >= 0).all()
        with pytest.raises(InputError, match="without layers"):
            part(file, layers=1)
        for wrong in ((0, 0, 0, 1, 1), (1, 0, 0, 0, 1, 1), (np.nan, 0, 0, 1, 1, 1)):
            with pytest.raises(InputError, match="region"):
                part(file, region=wrong)


@pytest.mark.parametrize("attrs", [{"boxes": 3}, {"boxes": [[0] * 6]}, {"boxes": [["a"] * 6] * 3}, {"boxes": [[1e400] * 6] * 3}, {}])
def test_boxes_of_another_hand_are_not_trusted(scene, tmp_path, attrs):
    from compand.modality.splats import matrix

    s = scene(1500, 0)
    s = s.take(order(s.positions))
    attrs = {k: v for k, v in attrs.items() if "inf" not in str(v)}
    with compand.Writer(tmp_path / "s.cpd") as f:
        f.write("splats", matrix(s), SPEC, attrs=attrs)
    with compand.open(tmp_path / "s.cpd") as file:
        some, whole = part(file, region=(0, 0, 0, 2, 2, 2)), from_file(file)
        assert np.array_equal(some.positions, whole.positions[(whole.positions >= 0).all(1)])
    with compand.Writer(tmp_path / "t.cpd") as f:
        f.write("splats", np.zeros((3, 5), np.float32), "raw")
    with compand.open(tmp_path / "t.cpd") as file, pytest.raises(FormatError):
        part(file, region=(0, 0, 0, 2, 2, 2))


def test_boxes_of_what_is_cut_by_the_codec(scene):
    from compand.modality.splats import matrix

    x = matrix(scene(1000, 0))
    codec = compand.Codec(SPEC).fit(x)
    assert len(boxes(x, codec)) == 2
