"""Sizes are read alike from every format, and broken files are named, not obeyed."""

import json
from array import array

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memplan.batching.dataset import Columns, histogram, id_of, read_sizes
from memplan.batching.rows import column_names
from memplan.data.records import Policy
from memplan.errors import DataError

ROWS = [
    {"id": "a", "length": 5, "input_ids": [1] * 5, "pics": ["x.png"], "wh": [[30, 40]]},
    {"id": "b", "length": 9, "input_ids": [1] * 9, "pics": [], "wh": []},
    {"id": "c", "length": 2, "input_ids": [1] * 2, "pics": None, "wh": None},
]


@pytest.fixture
def pyarrow():
    return pytest.importorskip("pyarrow")


def write_jsonl(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(file, rows):
    file.write_text(json.dumps(rows))


def write_csv(file, rows):
    names = ["id", "length"]
    lines = [",".join(str(row[name]) for name in names) for row in rows]
    file.write_text("\n".join([",".join(names), *lines]) + "\n")


def write_parquet(file, rows):
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, file, row_group_size=2)


def write_stream(file, rows):
    import pyarrow

    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=2)


def write_feather(file, rows):
    import pyarrow.feather

    pyarrow.feather.write_feather(pyarrow.Table.from_pylist(rows), file)


FORMATS = {
    ".jsonl": write_jsonl,
    ".ndjson": write_jsonl,
    ".json": write_json,
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".arrow": write_stream,
    ".feather": write_feather,
}
COLUMNAR = (".parquet", ".arrow", ".feather")


@pytest.fixture(params=FORMATS)
def data(request, tmp_path):
    """The same rows in each format."""
    if request.param in COLUMNAR:
        pytest.importorskip("pyarrow")
    file = tmp_path / f"data{request.param}"
    FORMATS[request.param](file, ROWS)
    return file


def test_every_format_says_the_same(data):
    sizes = read_sizes(data, Columns(id="id"))
    assert sizes.columns == {"seq_len": array("q", [5, 9, 2])}
    assert list(sizes.rows) == [1, 2, 3]
    assert id_of(sizes, 2) == "b"


def test_lists_count_by_their_length(data):
    if data.suffix == ".csv":
        pytest.skip("CSV has no lists")
    sizes = read_sizes(
        data,
        Columns(
            length="input_ids",
            target_length="length",
            images="pics",
            image_size=("wh",),
        ),
    )
    assert {name: list(values) for name, values in sizes.columns.items()} == {
        "seq_len": [5, 9, 2],
        "target_seq_len": [5, 9, 2],
        "images_per_sample": [1, 0, 0],
        "image_size": [35, 0, 0],  # 30 x 40 = 1200 pixels, 34.6 a side
    }


@pytest.mark.parametrize(
    ("value", "side"),
    [
        (448, 448),
        ([30, 40], 35),
        ([[10, 10], [50, 2]], 10),
        ([{"width": 8, "height": 2}], 4),
        ({"width": 3, "height": 3, "path": "x"}, 3),
        (None, 0),
        ([[0, 7]], 0),
    ],
)
def test_a_picture_counts_as_a_square_of_as_many_pixels(tmp_path, value, side):
    """side = ceil(sqrt(width x height)), of the largest picture."""
    file = tmp_path / "data.jsonl"
    write_jsonl(file, [{"size": value}])
    sizes = read_sizes(file, Columns(image_size=("size",)))
    assert list(sizes.columns["image_size"]) == [side]


def test_width_and_height_may_be_two_columns(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("w,h\n30,40\n,\n")
    sizes = read_sizes(file, Columns(image_size=("w", "h")))
    assert list(sizes.columns["image_size"]) == [35, 0]


def test_tables_with_nulls_have_floats_for_counts(tmp_path):
    file = tmp_path / "data.jsonl"
    write_jsonl(file, [{"length": 512.0}])
    assert list(read_sizes(file).columns["seq_len"]) == [512]


def test_lengths_are_looked_for_where_the_trainer_does(tmp_path):
    file = tmp_path / "data.jsonl"
    write_jsonl(file, [{"input_ids": [1, 2, 3]}])
    assert list(read_sizes(file).columns["seq_len"]) == [3]
    write_jsonl(file, [{"text": "a b c"}])
    with pytest.raises(DataError, match="no column named length or input_ids") as no:
        read_sizes(file)
    assert no.value.hint == "Name one with --length-column: text."


def test_texts_need_a_tokenizer(tmp_path):
    file = tmp_path / "data.jsonl"
    write_jsonl(file, [{"text": "one two three"}])
    columns = Columns(length="text")
    with pytest.raises(DataError, match="record 1, field text: is a text"):
        read_sizes(file, columns)
    sizes = read_sizes(file, columns, tokenizer=lambda text: len(text.split()))
    assert list(sizes.columns["seq_len"]) == [3]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "is null, a whole number or a list is needed"),
        (True, "is true or false"),
        (-1, "is -1, which no size is"),
        (2**70, "is 1180591620717411303424, which no size is"),
        (1.5, "is a number"),
        (float("nan"), "is a number"),
        (float("inf"), "is a number"),
        ({"a": 1}, "is an object"),
        ("12", "is a text"),
    ],
)
def test_a_bad_size_is_answered_with_file_row_and_field(tmp_path, value, problem):
    file = tmp_path / "data.jsonl"
    write_jsonl(file, [{"length": 3}, {"length": value}])
    with pytest.raises(DataError) as raised:
        read_sizes(file)
    said = raised.value.message
    assert said.startswith(f"{file}, record 2, field length: {problem}")
    sizes = read_sizes(file, policy=Policy.SKIP)
    assert list(sizes.columns["seq_len"]) == [3]
    assert sum(sizes.skipped.values()) == 1


def test_rows_are_counted_as_an_editor_does(tmp_path):
    """Blank and bad lines have numbers too."""
    file = tmp_path / "data.jsonl"
    file.write_text('{"length": 3}\n\nno json\n{"length": 7}\n')
    sizes = read_sizes(file, policy=Policy.SKIP)
    assert list(sizes.rows) == [1, 4]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.txt", b"5", "no format that is read here"),
        ("data.jsonl.gz", b"\x1f\x8b", "is compressed"),
        ("data.jsonl", b"", "no column named"),
        ("data.jsonl", b"\xff\xfe\x00", "no column named"),
        ("data.jsonl", b"[" * 100_000, "no column named"),
        ("data.json", b"{}", "is an object, a list of objects is needed"),
        ("data.json", b"[1]", "no column named"),
        ("data.json", b"[" * 100_000, "is not JSON"),
        ("data.json", b"\xff", "is not JSON"),
        ("data.csv", b"length\n\xff\n", "is not CSV in UTF-8"),
        ("data.csv", b"length\n" + b"9" * 200_000 + b"\n", "is not CSV"),
        ("data.csv", b"length,length\n1,2\n", "more than one column"),
        ("data.csv", b"length\n1e9\n", "is a text"),
        ("data.parquet", b"PAR1 no", "cannot be read"),
        ("data.parquet", b"", "cannot be read"),
        ("data.arrow", b"ARROW1 no", "cannot be read"),
        ("data.arrow", b"", "cannot be read"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path, name, content, said, pyarrow):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_sizes(file)


@pytest.mark.parametrize("name", FORMATS)
def test_files_that_are_not_there_are_said_to_be(tmp_path, name, pyarrow):
    with pytest.raises(DataError, match="cannot be read"):
        read_sizes(tmp_path / f"none{name}", Columns(length="length"))
    folder = tmp_path / f"folder{name}"
    folder.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_sizes(folder, Columns(length="length"))


def test_a_missing_column_is_answered_with_those_there_are(data):
    with pytest.raises(DataError) as raised:
        read_sizes(data, Columns(length="tokens"))
    assert "tokens" in raised.value.message
    if data.suffix in (*COLUMNAR, ".csv"):
        assert "length" in raised.value.hint


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_damaged_files_never_crash(data, some):
    """Bytes are changed anywhere, or the end is missing."""
    whole = data.read_bytes()
    damaged = bytearray(whole)
    for _ in range(some.draw(st.integers(1, 8))):
        place = some.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = some.draw(st.integers(0, 255))
    cut = some.draw(st.integers(0, len(damaged)))
    file = data.with_name(f"damaged{data.suffix}")
    file.write_bytes(damaged[:cut] if some.draw(st.booleans()) else damaged)
    for columns in (Columns(), Columns(length="input_ids", image_size=("wh",))):
        for policy in Policy:
            try:
                sizes = read_sizes(file, columns, policy=policy)
            except DataError as error:
                assert error.message.isprintable()
            else:
                assert all(value >= 0 for value in sizes.columns["seq_len"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["width", "height", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries({"a": JSON, "b": JSON, "c": JSON}), max_size=4))
def test_whatever_json_says_is_a_size_or_an_error(tmp_path, rows):
    file = tmp_path / "data.jsonl"
    write_jsonl(file, rows)
    columns = Columns(length="a", images="b", image_size=("c",))
    try:
        sizes = read_sizes(file, columns, policy=Policy.SKIP)
    except DataError as error:
        assert error.message.isprintable()
    else:
        values = [*sizes.columns["seq_len"], *sizes.columns["image_size"]]
        assert min(values) >= 0


def test_names_of_columns_do_not_move_the_cursor(tmp_path):
    file = tmp_path / "data.jsonl"
    write_jsonl(file, [{"a\x1b[31m": 1}])
    assert column_names(file) == ("a\x1b[31m",)
    with pytest.raises(DataError) as raised:
        read_sizes(file)
    assert raised.value.hint.isprintable()


# ---- histograms ----


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("h.csv", "length,count\n512,2\n16,1\n"),
        ("h.txt", "512 2\n16 1\n"),
        ("h.txt", "512:2\n16:1"),
        ("h.json", '{"512": 2, "16": 1}'),
        ("h.json", '{\n  "512": 2,\n  "16": 1\n}\n'),
    ],
)
def test_a_histogram_is_its_samples(tmp_path, name, content):
    file = tmp_path / name
    file.write_text(content)
    for written in (str(file), "512:2,16:1", " 16 : 1 , 512 : 2,"):
        sizes = histogram(written)
        assert sizes.columns == {"seq_len": array("q", [16, 512, 512])}
        assert sizes.rows is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("512:0", "has no samples"),
        ("512:99999999999", "99999999999 samples"),
        (f"{2**41}:1", "beyond measure"),
        ("512:" + "9" * 30, "is no length and its count"),
        ("none.csv", "No such file"),
        ("512=3", "No such file"),
    ],
)
def test_what_is_no_histogram_is_said_to_be_none(text, said):
    with pytest.raises(DataError, match=said):
        histogram(text)


def test_a_broken_histogram_names_its_line(tmp_path):
    file = tmp_path / "h.csv"
    file.write_text("length,count\n512,2\nsixteen,1\n")
    with pytest.raises(DataError, match=r"h.csv, line 3: 'sixteen,1'"):
        histogram(str(file))
    file.write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match="not UTF-8"):
        histogram(str(file))


# ---- large files ----


@pytest.mark.slow
def test_many_rows_are_read_in_bounded_memory(tmp_path, pyarrow):
    """Sixteen bytes a row are kept; the lists of tokens are never Python's."""
    import tracemalloc

    import pyarrow.parquet

    offsets = pyarrow.array(range(0, 800_004, 4), pyarrow.int32())
    tokens = pyarrow.array([7] * 800_000, pyarrow.int32())
    lists = pyarrow.ListArray.from_arrays(offsets, tokens)
    file = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": lists}), file)
    tracemalloc.start()
    sizes = read_sizes(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(sizes) == 200_000
    assert peak < 16 * len(sizes) * 1.5 + 4 * 2**20
