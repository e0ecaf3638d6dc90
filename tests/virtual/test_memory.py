"""Capacity, addresses and pointers of the virtual device, as its driver gives them."""

import resource
import signal

import bare
import pytest

MIB = 2**20


@pytest.fixture(scope="module")
def run(run_bare):
    return run_bare(13)


# ---- capacity ----


def test_the_context_is_charged_once_at_first_use(run):
    code = """
        count = c_int()
        assert cuda.cudaGetDeviceCount(byref(count)) == 0
        cuda.vd_used_bytes.restype = c_size_t
        print(cuda.vd_used_bytes(0), end=" ")
        assert cuda.cudaFree(None) == 0 and cuda.cudaSetDevice(0) == 0
        print(used() // MiB, end=" ")
        malloc(1)
        print(used() // MiB)
    """
    assert run(code) == "0 500 502"


def test_memory_is_given_in_pages_of_2_mib(run):
    code = """
        start = used()
        for size in (1, 2 * MiB, 2 * MiB + 1):
            before = used()
            malloc(size)
            print((used() - before) // MiB, end=" ")
    """
    assert run(code) == "2 2 4"


def test_what_does_not_fit_is_an_error_and_leaves_all_as_it_was(run):
    code = """
        first = malloc(7 * 1024 * MiB)
        before, pointer = used(), c_void_p(7)
        print(cuda.cudaMalloc(byref(pointer), c_size_t(600 * MiB)), end=" ")
        print(cuda.cudaPeekAtLastError(), cuda.cudaGetLastError(), end=" ")
        print(cuda.cudaGetLastError(), used() == before, end=" ")
        free(first)
        malloc(7680 * MiB)
        print(cuda.cudaMalloc(byref(pointer), c_size_t(14 * MiB)), end=" ")
        print(cuda.cudaMalloc(byref(pointer), c_size_t(12 * MiB)))
    """
    assert run(code) == "2 2 2 0 True 2 0"


def test_a_request_beyond_any_card_is_refused(run):
    code = """
        pointer = c_void_p()
        print(cuda.cudaMalloc(byref(pointer), c_size_t(2**64 - 1)), end=" ")
        print(cuda.cudaMalloc(byref(pointer), c_size_t(2**50)), used() // MiB)
    """
    assert run(code) == "2 2 500"


def test_only_what_was_given_is_taken_back(run):
    code = """
        pointer = malloc(4 * MiB)
        for wrong in (pointer + 512, 4096):
            print(cuda.cudaFree(c_void_p(wrong)), end=" ")
        free(pointer)
        print(cuda.cudaFree(c_void_p(pointer)), cuda.cudaFree(None), used() // MiB)
    """
    assert run(code) == "1 1 1 0 500"


def test_devices_have_memory_of_their_own(run):
    code = """
        malloc(100 * MiB)
        assert cuda.cudaSetDevice(1) == 0
        malloc(20 * MiB)
        print(used() // MiB, end=" ")
        assert cuda.cudaSetDevice(0) == 0
        print(used() // MiB, cuda.cudaSetDevice(2))
    """
    assert run(code, count=2) == "520 600 101"


# ---- addresses ----

PLACES = """
    first = malloc(20 * MiB)
    def place(size):
        return (malloc(size * MiB) - first) // MiB
"""


def test_units_of_32_mib_lie_each_below_the_last(run):
    code = "print(place(20), place(40), place(30), place(32))"
    assert run(PLACES, code) == "-32 -96 -128 -160"


def test_a_request_goes_into_the_lowest_hole_that_is_large_enough(run):
    # Each 20 MiB leave 12 MiB at the end of their unit.
    code = "print(place(20), place(2), place(12), place(10), place(4))"
    assert run(PLACES, code) == "-32 -12 20 -10 -64"


def test_a_unit_that_is_free_as_a_whole_goes_back(run):
    code = """
        second, third = place(20), place(2)
        free(first + second * MiB)
        free(first + third * MiB)
        print(second, third, place(32))
    """
    assert run(PLACES, code) == "-32 -12 -32"


def test_addresses_rise_where_the_card_says_so(run):
    code = "print(place(20), place(40), place(12))"
    assert run(PLACES, code, addresses="up") == "32 64 20"


def test_addresses_are_the_same_in_every_process(run):
    code = "print(malloc(MiB), malloc(64 * MiB), malloc(30 * MiB))"
    assert run(code) == run(code)


def test_memory_costs_no_memory_of_the_host(run):
    code = """
        import resource
        def resident():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        malloc(2 * MiB)
        before = resident()
        for _ in range(60):
            pointer = malloc(1024 * MiB)
            fill(pointer, 0, 1024 * MiB)
            fill(pointer, 7, 1024 * MiB)
            copy(pointer, pointer + 512 * MiB, 256 * MiB)
        print(resident() - before < 1024)
    """
    assert run(code, total_bytes=80 * 2**30) == "True"


def test_the_host_cannot_touch_device_memory(run):
    done = run("ctypes.string_at(malloc(MiB), 1)", fails=True)
    assert done.returncode == -signal.SIGSEGV


def test_a_limit_on_address_space_is_an_error_of_cuda(run, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))

    code = """
        pointer = c_void_p()
        print(cuda.cudaMalloc(byref(pointer), c_size_t(6 * 1024 * MiB)), used() // MiB)
        malloc(100 * MiB)
    """
    log = tmp_path / "log"
    variables = {"MEMPLAN_DEVICE_LOG": str(log)}
    assert run(code, before=limit, variables=variables) == "2 500"
    assert "ulimit -v" in log.read_text()


# ---- pointers ----

ATTRIBUTES = """
class Attributes(ctypes.Structure):
    _fields_ = [("type", c_int), ("device", c_int), ("device_pointer", c_void_p),
                ("host_pointer", c_void_p), ("reserved", ctypes.c_long * 8)]

def attributes(pointer):
    found = Attributes()
    assert cuda.cudaPointerGetAttributes(byref(found), c_void_p(pointer)) == 0
    return (found.type, found.device, found.device_pointer == pointer,
            found.host_pointer == pointer)
"""


def test_a_pointer_says_what_it_is(run):
    code = """
        assert cuda.cudaSetDevice(1) == 0
        print(attributes(malloc(MiB) + 1000))
        print(attributes(new(cuda.cudaHostAlloc, c_size_t(MiB), 0).value))
        print(attributes(new(cuda.cudaMallocManaged, c_size_t(MiB), 1).value))
        print(attributes(id(None)))
    """
    assert run(ATTRIBUTES, code, count=2).splitlines() == [
        "(2, 1, True, False)",
        "(1, 1, True, True)",
        "(3, 1, True, True)",
        "(0, -2, False, True)",
    ]


def test_pinned_and_managed_memory_is_memory(run):
    code = """
        for create, flags in ((cuda.cudaHostAlloc, 0), (cuda.cudaMallocManaged, 1)):
            pointer = new(create, c_size_t(MiB), flags).value
            ctypes.memset(pointer, 3, MiB)
            print(ctypes.string_at(pointer + MiB - 1, 1), end=" ")
            free(pointer)
        print(used() // MiB)
    """
    assert run(code) == r"b'\x03' b'\x03' 500"


def test_host_memory_is_registered_once(run):
    code = """
        data = ctypes.create_string_buffer(MiB)
        pointer, size = c_void_p(ctypes.addressof(data)), c_size_t(MiB)
        print(attributes(pointer.value)[0], cuda.cudaHostRegister(pointer, size, 0))
        print(attributes(pointer.value)[0], cuda.cudaHostRegister(pointer, size, 0))
        print(cuda.cudaFreeHost(pointer), cuda.cudaHostUnregister(pointer))
        print(attributes(pointer.value)[0], cuda.cudaHostUnregister(pointer))
    """
    assert run(ATTRIBUTES, code).splitlines() == ["0 0", "1 712", "1 0", "0 713"]


def test_memory_of_another_process_is_charged_there_alone(run):
    code = """
        class Handle(ctypes.Structure):
            _fields_ = [("bytes", c_char * 64)]
        pointer, handle, here = malloc(64 * MiB), Handle(), c_void_p()
        assert cuda.cudaIpcGetMemHandle(byref(handle), c_void_p(pointer)) == 0
        print(cuda.cudaIpcOpenMemHandle(byref(here), handle, 1), end=" ", flush=True)
        if os.fork() == 0:
            before = used()
            assert cuda.cudaIpcOpenMemHandle(byref(here), handle, 1) == 0
            write(here.value, b"there")
            print(read(here.value, 5), used() - before, end=" ")
            closed = cuda.cudaIpcCloseMemHandle(here)
            print(read(here.value, 1), closed, flush=True)
            os._exit(0)
        os.wait()
    """
    assert run(code) == r"400 b'there' 0 b'\x00' 0"


# ---- pools ----

POOL = """
pool = new(cuda.cudaDeviceGetDefaultMemPool, 0)

def ask(attribute):
    value = c_ulonglong()
    assert cuda.cudaMemPoolGetAttribute(pool, attribute, byref(value)) == 0
    return value.value

RESERVED, USED, USED_HIGH = 5, 7, 8

def keep(size):
    value = c_ulonglong(size)
    assert cuda.cudaMemPoolSetAttribute(pool, 4, byref(value)) == 0

def take(size):
    return new(cuda.cudaMallocAsync, c_size_t(size), None)

def give(pointer):
    assert cuda.cudaFreeAsync(pointer, None) == 0
"""


def test_a_pool_hands_out_parts_of_units(run):
    code = """
        take(1), take(1000), take(40 * MiB)
        print(ask(USED) - 40 * MiB, ask(RESERVED) // MiB, used() // MiB)
    """
    assert run(POOL, code) == "1536 96 596"


def test_a_pool_keeps_what_its_threshold_says(run):
    code = """
        small = take(1)
        give(take(40 * MiB))
        print(ask(USED), ask(USED_HIGH) - 40 * MiB, ask(RESERVED) // MiB)
        keep(2**64 - 1)
        give(take(40 * MiB))
        print(ask(RESERVED) // MiB, used() // MiB)
        assert cuda.cudaMemPoolTrimTo(pool, c_size_t(0)) == 0
        print(ask(RESERVED) // MiB, used() // MiB)
    """
    assert run(POOL, code).splitlines() == ["512 512 32", "96 596", "32 532"]


def test_memory_of_a_pool_is_freed_once_and_either_way(run):
    code = """
        first, second = take(1), take(1)
        give(first)
        print(cuda.cudaFreeAsync(first, None), cuda.cudaFree(first), end=" ")
        print(cuda.cudaFree(second))
        give(c_void_p(malloc(MiB)))
        print(ask(USED), used() // MiB)
    """
    assert run(POOL, code).splitlines() == ["1 1 0", "0 500"]


# ---- virtual memory management ----

VIRTUAL = """
class Properties(ctypes.Structure):
    _fields_ = [("type", c_int), ("handles", c_int), ("location", c_int),
                ("device", c_int), ("meta", c_void_p), ("flags", c_char * 8)]

zero = c_ulonglong(0)

def reserve(size):
    return new(driver.cuMemAddressReserve, c_size_t(size), zero, zero, zero).value

def create(size, device=0):
    handle, properties = c_void_p(), Properties(1, 0, 1, device)
    error = driver.cuMemCreate(byref(handle), c_size_t(size), byref(properties), zero)
    return handle if error == 0 else error

def map_(pointer, size, handle):
    return driver.cuMemMap(c_void_p(pointer), c_size_t(size), zero, handle, zero)

def unmap(pointer, size):
    assert driver.cuMemUnmap(c_void_p(pointer), c_size_t(size)) == 0
"""


def test_created_memory_is_charged_until_nobody_holds_or_maps_it(run):
    code = """
        start, page = reserve(64 * MiB), create(20 * MiB)
        print(used() // MiB, end=" ")
        assert map_(start, 20 * MiB, page) == 0 and driver.cuMemRelease(page) == 0
        print(used() // MiB, end=" ")
        unmap(start, 64 * MiB)
        print(used() // MiB, create(9 * 1024 * MiB), create(MiB))
        assert driver.cuMemAddressFree(c_void_p(start), c_size_t(64 * MiB)) == 0
    """
    assert run(VIRTUAL, code) == "520 520 500 2 1"


def test_only_mapped_addresses_are_memory(run):
    code = """
        start = reserve(64 * MiB)
        assert map_(start + 2 * MiB, 4 * MiB, create(4 * MiB, 1)) == 0
        print(attributes(start)[0], attributes(start + 2 * MiB)[:2])
        again = create(2 * MiB)
        print(attributes(start + 6 * MiB)[0], map_(start + 4 * MiB, 2 * MiB, again))
        write(start + 2 * MiB, b"here")
        unmap(start + 2 * MiB, 4 * MiB)
        print(attributes(start + 2 * MiB)[0], read(start + 2 * MiB, 1))
    """
    seen = run(ATTRIBUTES, VIRTUAL, code, count=2).splitlines()
    assert seen == ["0 (2, 1)", "0 1", r"0 b'\x00'"]


# ---- which devices there are ----


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        ("1,7,2", [1]),
        ("1,-1,2", [1]),
        ("1,1", []),
        ("NoDevFiles", []),
        ("GPU-6d656d70-6c61-6e00-0000-000000000003,1", [3, 1]),
    ],
)
def test_cuda_visible_devices_acts_as_on_a_machine(run, visible, seen):
    code = """
        count, bus = c_int(), c_int()
        error = cuda.cudaGetDeviceCount(byref(count))
        devices = []
        for device in range(count.value):
            assert cuda.cudaDeviceGetAttribute(byref(bus), 33, device) == 0
            devices.append(bus.value - 0x10)
        print(error, devices)
    """
    error = 0 if seen else 100
    variables = {"CUDA_VISIBLE_DEVICES": visible}
    assert run(code, count=4, variables=variables) == f"{error} {seen}"


NO_DEVICE = """
print(cuda.cudaGetDeviceCount(byref(c_int())), driver.cuInit(0), cuda.cudaFree(None),
      cuda.cudaMalloc(byref(c_void_p()), c_size_t(1)),
      cuda.cudaMemGetInfo(byref(c_size_t()), byref(c_size_t())))
"""


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        (None, "MEMPLAN_DEVICE describes no card"),
        ("", "does not say 'total_bytes'"),
        (bare.describe(num_sms="many"), "'num_sms'"),
        (bare.describe(colour="green"), "unknown key"),
        (bare.describe(total_bytes=-1), "'total_bytes'"),
        (bare.describe(count=99), "too many devices"),
        (bare.describe(compute_capability=None), "'compute_capability'"),
    ],
)
def test_without_a_sound_description_there_is_no_device_and_a_sentence(
    run, device, sentence
):
    done = run(NO_DEVICE, variables={"MEMPLAN_DEVICE": device}, fails=True)
    assert done.stdout.split() == ["100"] * 5
    assert done.stderr.startswith("memplan: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
