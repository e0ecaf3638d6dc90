"""What the host wrote to device memory comes back; everything else reads as zero."""

import pytest

MIB = 2**20


@pytest.fixture(scope="module")
def run(run_bare):
    return run_bare(13)


def test_what_was_written_comes_back_whole_and_in_part(run):
    code = """
        start = malloc(MiB)
        write(start + 100, b"0123456789")
        print(read(start + 100, 10), read(start + 103, 4), read(start + 98, 5))
    """
    assert run(code) == r"b'0123456789' b'3456' b'\x00\x00012'"


def test_unwritten_memory_reads_as_zero_whatever_the_buffer_held(run):
    code = "print(set(read(malloc(4 * MiB), 3 * MiB)))"
    assert run(code) == "{0}"


def test_later_writes_replace_earlier_ones(run):
    code = """
        start = malloc(MiB)
        write(start, b"aaaaaaaa")
        write(start + 2, b"bb")
        write(start + 6, b"cccc")
        print(read(start, 10))
    """
    assert run(code) == "b'aabbaacccc'"


def test_a_copy_beyond_the_limit_leaves_zeros(run):
    code = """
        start = malloc(4 * MiB)
        write(start, b"x" * 2000)
        print(len(set(read(start, 2000))))
        write(start, b"y" * 2001)
        print(read(start, 3))
    """
    assert run(code, copy_limit=2000).splitlines() == ["1", r"b'\x00\x00\x00'"]


def test_values_travel_with_copies_from_device_to_device(run):
    code = """
        first, second = malloc(64 * MiB), malloc(64 * MiB)
        write(first + 10, b"near")
        write(first + 40 * MiB, b"far")
        write(second + 20, b"old")
        copy(second, first, 64 * MiB)
        write(first + 10, b"gone")
        print(read(second + 10, 4), read(second + 40 * MiB, 3), read(second + 20, 3))
    """
    assert run(code) == r"b'near' b'far' b'\x00\x00\x00'"


def test_a_copy_may_overlap_itself(run):
    code = """
        start = malloc(MiB)
        write(start, b"abcdef")
        copy(start + 2, start, 6)
        print(read(start, 8))
        copy(start, start + 2, 6)
        print(read(start, 8))
    """
    assert run(code).splitlines() == ["b'ababcdef'", "b'abcdefef'"]


def test_fills_are_values(run):
    code = """
        start = malloc(8 * MiB)
        fill(start, 7, 1000)
        fill(start + 10, 0, 5)
        print(read(start + 8, 9))
        fill(start, 9, 4 * MiB)
        print(read(start, 2))
        word = ctypes.c_uint(0x04030201)
        assert driver.cuMemsetD32_v2(c_void_p(start), word, c_size_t(3)) == 0
        print(read(start, 13))
    """
    assert run(code).splitlines() == [
        r"b'\x07\x07\x00\x00\x00\x00\x00\x07\x07'",
        r"b'\x00\x00'",  # too large to keep
        r"b'\x01\x02\x03\x04\x01\x02\x03\x04\x01\x02\x03\x04\x00'",
    ]


def test_rows_are_copied_with_their_pitch(run):
    code = """
        start = malloc(MiB)
        data = bytes(range(1, 13))
        size = c_size_t
        error = cuda.cudaMemcpy2D(
            c_void_p(start), size(8), data, size(4), size(3), size(3), 1)
        assert error == 0
        print(list(read(start, 20)))
        back = ctypes.create_string_buffer(9)
        error = cuda.cudaMemcpy2D(
            back, size(3), c_void_p(start), size(8), size(3), size(3), 2)
        assert error == 0
        print(list(back.raw))
        error = cuda.cudaMemcpy2D(
            back, size(3), c_void_p(start), size(8), size(4), size(3), 2)
        print(error)
    """
    assert run(code).splitlines() == [
        "[1, 2, 3, 0, 0, 0, 0, 0, 5, 6, 7, 0, 0, 0, 0, 0, 9, 10, 11, 0]",
        "[1, 2, 3, 5, 6, 7, 9, 10, 11]",
        "1",
    ]


def test_copies_between_host_buffers_are_copies(run):
    code = """
        to = ctypes.create_string_buffer(5)
        print(cuda.cudaMemcpy(to, b"hello", c_size_t(5), 0), to.raw)
        print(cuda.cudaMemcpy(to, None, c_size_t(5), 0), cuda.cudaGetLastError())
    """
    assert run(code).splitlines() == ["0 b'hello'", "1 1"]


def test_a_large_read_costs_pinned_memory_nothing(run):
    code = """
        import resource
        def resident():
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * resource.getpagesize()
        size = 256 * MiB
        start, pinned = malloc(size), new(cuda.cudaHostAlloc, c_size_t(size), 0)
        ctypes.memset(pinned, 1, size)
        write(start + 200 * MiB, b"here")
        before = resident()
        assert cuda.cudaMemcpy(pinned, c_void_p(start), c_size_t(size), 2) == 0
        print((before - resident()) // MiB > 250,
              set(ctypes.string_at(pinned, MiB)),
              ctypes.string_at(pinned.value + 200 * MiB - 1, 6))
    """
    assert run(code) == r"True {0} b'\x00here\x00'"


def test_a_large_read_leaves_other_memory_as_it_is_but_for_values(run):
    code = """
        size = 65 * MiB
        start, data = malloc(size), bytearray(b"?") * size
        write(start + 10, b"here")
        buffer = (c_char * size).from_buffer(data)
        assert cuda.cudaMemcpy(buffer, c_void_p(start), c_size_t(size), 2) == 0
        print(bytes(data[9:15]))
    """
    assert run(code) == "b'?here?'"


def test_all_values_together_are_bounded_and_the_oldest_go_first(run):
    code = """
        size = 60 * MiB
        start, data = malloc(1024 * MiB), b"x" * size
        for i in range(8):
            write(start + i * size, data)
        write(start, b"renewed")
        write(start + 8 * size, data)
        print([read(start + i * size, 1) for i in range(9)])
    """
    kept = ["b'r'", r"b'\x00'", *["b'x'"] * 7]
    assert run(code, copy_limit=60 * MIB) == f"[{', '.join(kept)}]"


def test_freed_memory_holds_nothing(run):
    code = """
        start = malloc(2 * MiB)
        write(start, b"secret")
        free(start)
        again = malloc(2 * MiB)
        print(again == start, read(again, 6))
    """
    assert run(code) == r"True b'\x00\x00\x00\x00\x00\x00'"


def test_any_sequence_acts_as_plain_memory_would(run):
    code = """
        import random
        size = 4096
        for seed in range(40):
            chance = random.Random(seed)
            start, model = malloc(size), bytearray(size)
            for step in range(400):
                length = chance.choice((1, 8, 100, 1000))
                at = chance.randrange(size - length + 1)
                other = chance.randrange(size - length + 1)
                match chance.randrange(5):
                    case 0 | 1:
                        data = chance.randbytes(length)
                        write(start + at, data)
                        model[at : at + length] = data
                    case 2:
                        copy(start + at, start + other, length)
                        model[at : at + length] = model[other : other + length]
                    case 3:
                        byte = chance.randrange(3)
                        fill(start + at, byte, length)
                        model[at : at + length] = bytes([byte]) * length
                    case 4:
                        seen = read(start + at, length)
                        assert seen == model[at : at + length], (seed, step)
            assert read(start, size) == model, seed
            free(start)
        print("as plain memory")
    """
    assert run(code) == "as plain memory"


def test_threads_do_not_disturb_each_other(run):
    code = """
        import random, threading
        failed = []
        def work(number):
            chance, start = random.Random(number), malloc(2 * MiB)
            for _ in range(2000):
                at, data = chance.randrange(MiB), chance.randbytes(64)
                write(start + at, data)
                if read(start + at, 64) != data:
                    failed.append(number)
                if chance.random() < 0.1:
                    free(start)
                    start = malloc(2 * MiB)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(failed, used() // MiB)
    """
    assert run(code) == "[] 512"


# ---- blocks that PyTorch's allocator hands out anew ----

BLOCKS = """
def given(pointer):
    cuda.vd_forget(c_void_p(pointer))

def taken_back(pointer):
    cuda.vd_forget_freed(c_void_p(pointer))

KiB = 1024
start = malloc(64 * KiB)
"""


def test_a_block_given_anew_holds_nothing(run):
    code = """
        given(start), given(start + 4 * KiB)
        write(start, b"old"), write(start + 2 * KiB, b"old")
        write(start + 4 * KiB, b"kept")
        taken_back(start), given(start)
        print(read(start, 1), read(start + 2 * KiB, 1), read(start + 4 * KiB, 4))
    """
    assert run(BLOCKS, code) == r"b'\x00' b'\x00' b'kept'"


def test_a_block_given_over_freed_ones_holds_nothing(run):
    code = """
        for i in range(4):
            given(start + i * KiB), write(start + i * KiB, b"old")
        for i in range(3):
            taken_back(start + i * KiB)
        given(start)
        print([read(start + i * KiB, 1) for i in range(4)])
    """
    assert run(BLOCKS, code) == r"[b'\x00', b'\x00', b'\x00', b'o']"


def test_without_word_of_frees_a_block_is_known_to_the_next(run):
    code = """
        given(start), given(start + KiB)
        write(start, b"old"), write(start + KiB, b"kept")
        given(start)
        print(read(start, 1), read(start + KiB, 4))
    """
    assert run(BLOCKS, code) == r"b'\x00' b'kept'"


def test_forgetting_ends_with_the_segment(run):
    code = """
        below, above = sorted((malloc(32 * MiB), malloc(32 * MiB)))
        assert above - below == 32 * MiB
        write(above, b"kept"), write(above - 3, b"old")
        given(below)
        print(read(above - 3, 7))
    """
    assert run(BLOCKS, code) == r"b'\x00\x00\x00kept'"
