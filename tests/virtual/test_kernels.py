"""Kernels are checked as a card checks them, and never run."""

import pytest


@pytest.fixture(scope="module")
def run(run_bare):
    return run_bare(13)


KERNELS = """
import struct

PTX, CODE = 1, 2
alive = []

def fat_binary(*images):
    body = b""
    for kind, architecture in images:
        payload = b"?" * 24
        header = struct.pack("<HHIQIIHHI", kind, 0, 64, len(payload), 0, 0, 0, 1,
                             architecture)
        body += header.ljust(64, b"?") + payload
    whole = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body
    data = ctypes.create_string_buffer(whole, len(whole))
    address = ctypes.addressof(data)
    wrapper = ctypes.create_string_buffer(
        struct.pack("<IIQQ", 0x466243B1, 1, address, 0))
    alive.extend((data, wrapper))
    return wrapper

cuda.__dict__["register"] = getattr(cuda, "__cudaRegisterFatBinary")
cuda.register.restype = c_void_p
register_function = getattr(cuda, "__cudaRegisterFunction")

def kernel(name=b"ordinary", images=((CODE, 90),)):
    module = c_void_p(cuda.register(fat_binary(*images)))
    stub = ctypes.create_string_buffer(1)
    alive.append((stub, name))
    null = c_void_p()
    register_function(module, stub, name, name, -1, null, null, null, null, null)
    return c_void_p(ctypes.addressof(stub))

class Dim3(ctypes.Structure):
    _fields_ = [("x", c_uint), ("y", c_uint), ("z", c_uint)]

def launch(function, grid=(1, 1, 1), block=(32, 1, 1), shared=0, stream=None):
    return cuda.cudaLaunchKernel(
        function, Dim3(*grid), Dim3(*block), None, c_size_t(shared), stream)

class Attribute(ctypes.Structure):
    _fields_ = [("id", c_int), ("pad", c_int), ("value", c_uint * 16)]

class Config(ctypes.Structure):
    _fields_ = [("grid", Dim3), ("block", Dim3), ("shared", c_size_t),
                ("stream", c_void_p), ("attributes", ctypes.POINTER(Attribute)),
                ("count", c_uint)]

def launch_cluster(function, grid, cluster):
    attribute = Attribute(4, 0, (c_uint * 16)(*cluster))
    config = Config(Dim3(*grid), Dim3(32, 1, 1), 0, None, ctypes.pointer(attribute), 1)
    return cuda.cudaLaunchKernelExC(byref(config), function, None)

class FuncAttributes(ctypes.Structure):
    _fields_ = [("shared", c_size_t), ("const", c_size_t), ("local", c_size_t),
                ("max_threads", c_int), ("registers", c_int), ("ptx", c_int),
                ("binary", c_int), ("cache", c_int), ("max_dynamic", c_int),
                ("rest", c_int * 24)]

def attributes(function):
    found = FuncAttributes()
    assert cuda.cudaFuncGetAttributes(byref(found), function) == 0
    return found

def unsupported():
    text = ctypes.create_string_buffer(4096)
    cuda.vd_unsupported_calls(text, c_size_t(4096))
    return text.value.decode().splitlines()
"""


@pytest.mark.parametrize(
    ("grid", "block", "error"),
    [
        ((1, 1, 1), (1024, 1, 1), 0),
        ((2**31 - 1, 65535, 65535), (1, 1, 64), 0),
        ((0, 1, 1), (1, 1, 1), 9),
        ((1, 1, 1), (1, 0, 1), 9),
        ((1, 65536, 1), (1, 1, 1), 9),
        ((1, 1, 65536), (1, 1, 1), 9),
        ((2**31, 1, 1), (1, 1, 1), 9),
        ((1, 1, 1), (1025, 1, 1), 9),
        ((1, 1, 1), (32, 33, 1), 9),
        ((1, 1, 1), (1, 1, 65), 9),
    ],
)
def test_a_launch_keeps_to_the_bounds_of_a_card(run, grid, block, error):
    code = f"print(launch(kernel(), {grid}, {block}), cuda.cudaGetLastError())"
    assert run(KERNELS, code) == f"{error} {error}"


def test_shared_memory_beyond_48_kib_is_asked_for_first(run):
    code = """
        first, other = kernel(), kernel()
        print(launch(first, shared=49152), launch(first, shared=49153))
        print(cuda.cudaFuncSetAttribute(first, 8, 232448),
              cuda.cudaFuncSetAttribute(first, 8, 232449))
        print(launch(first, shared=232448), launch(other, shared=49153),
              attributes(first).max_dynamic, attributes(other).max_dynamic)
    """
    assert run(KERNELS, code).splitlines() == ["0 1", "0 1", "0 1 232448 49152"]


def test_what_was_never_registered_is_no_kernel(run):
    code = """
        print(launch(c_void_p(4096)),
              cuda.cudaFuncGetAttributes(byref(FuncAttributes()), c_void_p(4096)),
              getattr(cuda, "__cudaGetKernel")(byref(c_void_p()), c_void_p(4096)))
    """
    assert run(KERNELS, code) == "98 98 98"


def test_a_kernel_is_launched_by_its_handle_too(run):
    code = """
        handle = new(getattr(cuda, "__cudaGetKernel"), kernel(b"name"))
        one = Dim3(1, 1, 1)
        by_handle = getattr(cuda, "__cudaLaunchKernel")
        print(by_handle(handle, one, one, None, c_size_t(0), None), launch(handle))
        name = ctypes.c_char_p()
        print(cuda.cudaFuncGetName(byref(name), handle), name.value)
    """
    assert run(KERNELS, code).splitlines() == ["0 0", "0 b'name'"]


def test_many_kernels_are_told_apart(run):
    code = """
        names = [b"kernel%d" % i for i in range(5000)]
        stubs = [kernel(name) for name in names]
        name = ctypes.c_char_p()
        for stub, expected in zip(stubs, names):
            assert cuda.cudaFuncGetName(byref(name), stub) == 0
            assert name.value == expected
        print("told apart")
    """
    assert run(KERNELS, code) == "told apart"


@pytest.mark.parametrize(
    ("grid", "cluster", "error"),
    [
        ((4, 4, 1), (2, 2, 1), 0),
        ((8, 1, 1), (8, 1, 1), 0),
        ((16, 1, 1), (16, 1, 1), 912),
        ((3, 1, 1), (2, 1, 1), 9),
        ((4, 1, 1), (0, 1, 1), 912),
        ((4, 1, 1), (1, 1, 1), 0),
    ],
)
def test_clusters_keep_to_the_bounds_of_a_card(run, grid, cluster, error):
    code = f"print(launch_cluster(kernel(), {grid}, {cluster}))"
    assert run(KERNELS, code) == str(error)


def test_larger_clusters_are_asked_for_first(run):
    code = """
        asking = kernel()
        print(cuda.cudaFuncSetAttribute(asking, 14, 1),
              launch_cluster(asking, (16, 1, 1), (16, 1, 1)),
              launch_cluster(asking, (32, 1, 1), (32, 1, 1)))
    """
    assert run(KERNELS, code) == "0 0 912"


def test_cards_before_hopper_know_no_clusters(run):
    code = "print(launch_cluster(kernel(), (2, 1, 1), (2, 1, 1)))"
    assert run(KERNELS, code, compute_capability=89) == "801"


TORCH = "[(CODE, 75), (CODE, 80), (CODE, 86), (CODE, 90), (CODE, 100), (CODE, 120)]"


@pytest.mark.parametrize(
    ("card", "images", "ptx", "binary"),
    [
        (90, TORCH, 90, 90),
        (80, TORCH, 80, 80),
        (89, TORCH, 86, 86),
        (103, TORCH, 100, 100),
        (121, TORCH, 120, 120),
        (89, "[(PTX, 80), (PTX, 90)]", 80, 89),
        (90, "[(CODE, 80), (PTX, 80), (PTX, 75)]", 80, 90),
        (90, "[(PTX, 90), (CODE, 90)]", 90, 90),
    ],
)
def test_a_kernel_is_of_the_code_that_runs_on_the_card(run, card, images, ptx, binary):
    code = f"""
        found = attributes(kernel(images={images}))
        print(found.ptx, found.binary, unsupported())
    """
    assert run(KERNELS, code, compute_capability=card) == f"{ptx} {binary} []"


def test_a_card_without_code_for_it_is_named_and_plays_the_oldest(run):
    code = f"""
        two = kernel(images={TORCH}), kernel(images={TORCH})
        print(launch(two[0]), launch(two[0]), launch(two[1]))
        print(attributes(two[0]).ptx, *unsupported())
    """
    named = "75 kernels without code for this compute capability 2"
    assert run(KERNELS, code, compute_capability=70).splitlines() == ["0 0 0", named]


@pytest.mark.parametrize(
    ("threads", "shared", "blocks"),
    [
        (1024, 0, 2),  # by threads: 2048 an SM
        (64, 0, 32),  # by blocks
        (128, 0, 16),
        (96, 0, 21),  # 64 warps, 3 for each
        (32, 100 * 1024, 2),  # by shared memory: 228 KiB, 1 of them for each block
        (32, 227 * 1024, 1),
        (2048, 0, 0),
    ],
)
def test_occupancy_is_what_the_limits_of_an_sm_allow(run, threads, shared, blocks):
    code = f"""
        found = c_int()
        error = cuda.cudaOccupancyMaxActiveBlocksPerMultiprocessor(
            byref(found), kernel(), {threads}, c_size_t({shared}))
        print(error, found.value)
    """
    assert run(KERNELS, code) == f"0 {blocks}"


ALL = b"_ZN2at6native13reduce_kernelILi512E15and_kernel_cudaRNS_14TensorIteratorE"


def test_a_byte_read_right_after_the_kernel_of_all_is_true(run):
    code = f"""
        every, other, start = kernel({ALL!r}), kernel(), malloc(1024)
        write(start, bytes(4))
        launch(every)
        print(read(start, 1), read(start, 1), read(start, 2))
        launch(other)
        print(read(start, 1))
        launch(every), write(start + 100, b"?")
        print(read(start, 1))
    """
    assert run(KERNELS, code).splitlines() == [
        r"b'\x01' b'\x01' b'\x00\x00'",
        r"b'\x00'",
        r"b'\x00'",
    ]


def test_variables_of_device_code_hold_what_is_written_to_them(run):
    code = """
        variable = ctypes.create_string_buffer(1)
        register = getattr(cuda, "__cudaRegisterVar")
        register(None, variable, b"v", b"v", 0, c_size_t(8), 0, 0)
        address, size, back = c_void_p(), c_size_t(), ctypes.create_string_buffer(4)
        print(cuda.cudaGetSymbolAddress(byref(address), variable),
              cuda.cudaGetSymbolSize(byref(size), variable), size.value)
        zero, four, eight = c_size_t(0), c_size_t(4), c_size_t(8)
        print(cuda.cudaMemcpyToSymbol(variable, b"four", four, four, 1),
              cuda.cudaMemcpyFromSymbol(back, variable, four, four, 2), back.raw,
              read(address.value, 8))
        print(cuda.cudaMemcpyToSymbol(variable, b"too much", eight, four, 1),
              cuda.cudaGetSymbolAddress(byref(address), c_void_p(4096)), used() // MiB)
    """
    assert run(KERNELS, code).splitlines() == [
        "0 0 8",
        r"0 0 b'four' b'\x00\x00\x00\x00four'",
        "1 13 500",
    ]


def test_modules_of_the_driver_hold_kernels(run):
    code = """
        module = new(driver.cuModuleLoadData, b"any image")
        function = new(driver.cuModuleGetFunction, module, b"made_at_run_time")
        def launch_it(grid, shared):
            return driver.cuLaunchKernel(
                function, grid, 1, 1, 32, 1, 1, shared, None, None, None)
        value = c_int()
        print(launch_it(8, 0), launch_it(0, 0), launch_it(8, 50000),
              driver.cuFuncSetAttribute(function, 8, 50000), launch_it(8, 50000),
              driver.cuFuncGetAttribute(byref(value), 6, function), value.value,
              driver.cuModuleUnload(module))
    """
    assert run(KERNELS, code) == "0 1 1 0 0 0 90 0"


# ---- functions of the driver by name ----


@pytest.mark.parametrize(
    ("name", "version", "symbol"),
    [
        ("cuMemAlloc", 12000, "cuMemAlloc_v2"),
        ("cuLaunchKernel", 12000, "cuLaunchKernel"),
        ("cuStreamGetCtx", 12040, "cuStreamGetCtx"),
        ("cuStreamGetCtx", 13000, "cuStreamGetCtx_v2"),
        ("cuCtxGetDevice", 12080, "cuCtxGetDevice"),
        ("cuCtxGetDevice", 13000, "cuCtxGetDevice_v2"),
        ("cuCtxCreate", 12000, None),  # _v3, which nobody wrote
    ],
)
def test_a_name_stands_for_the_interface_of_its_version(run, name, version, symbol):
    code = f"""
        function, status = c_void_p(), c_int()
        error = cuda.cudaGetDriverEntryPointByVersion(
            {name.encode()}, byref(function), {version}, c_ulonglong(0), byref(status))
        symbol = {symbol!r}
        expected = symbol and ctypes.cast(getattr(driver, symbol), c_void_p).value
        print(error, status.value, function.value == expected)
    """
    assert run(code) == f"0 {0 if symbol else 1} True"


def test_a_runtime_inside_another_library_finds_no_driver(run):
    code = """
        function, status, version = c_void_p(1), c_int(), 12000
        print(driver.cuGetProcAddress_v2(
            b"cuInit", byref(function), version, c_ulonglong(0), byref(status)))
        print(function.value, driver.cuGetExportTable(byref(function), b"?" * 16))
    """
    assert run(code).splitlines() == ["500", "None 500"]


def test_calls_that_nobody_plays_are_counted_by_name(run):
    code = """
        for name in (b"cudaOne", b"cudaTwo", b"cudaOne"):
            assert cuda.vd_default(name, 0) == 0
        cuda.vd_default(b"cublasGemm", 1)
        cuda.vd_unsupported_calls.restype = c_size_t
        size = cuda.vd_unsupported_calls(None, c_size_t(0))
        print(size, unsupported())
    """
    assert run(KERNELS, code) == "21 ['cudaOne 2', 'cudaTwo 1']"
