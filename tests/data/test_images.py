"""A picture is decoded whole, or its record says why it cannot be used."""

from io import BytesIO

import pytest

from memplan.data.records import BadRecordError, Record

Image = pytest.importorskip("PIL.Image")

from memplan.data.images import open_picture  # noqa: E402


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "data.jsonl", 7, {})


def encoded(mode="RGB", size=(40, 30), kind="JPEG"):
    out = BytesIO()
    Image.new(mode, size, 1).save(out, kind)
    return out.getvalue()


def test_a_picture_comes_in_rgb(record):
    for mode, kind in [("RGB", "JPEG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG")]:
        picture = open_picture(encoded(mode, kind=kind), record, "image")
        assert (picture.mode, picture.size) == ("RGB", (40, 30))


def test_a_picture_is_read_from_a_file(record, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded())
    assert open_picture(tmp_path / "a.jpg", record, "image").size == (40, 30)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder: folder / "no.jpg", "names a picture that is not there"),
        (lambda folder: b"", "is no picture that can be read"),
        (lambda folder: b"GIF89a", "is"),
        (lambda folder: encoded(size=(400, 400))[:-1500], "is a damaged picture"),
        (
            lambda folder: encoded("L", (12_000, 12_000), "PNG"),
            "is a picture too large to decode",
        ),
        (lambda folder: folder, "is a damaged picture"),
    ],
)
def test_what_cannot_be_used_is_named(record, tmp_path, make, problem):
    with pytest.raises(BadRecordError) as caught:
        open_picture(make(tmp_path), record, "image")
    assert f"data.jsonl, record 7, field image: {problem}" in caught.value.message
