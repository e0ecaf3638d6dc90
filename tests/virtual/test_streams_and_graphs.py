"""Streams, events, and graphs as far as PyTorch's CUDA graphs need them."""

import pytest


@pytest.fixture(scope="module", params=[13, 12])
def run(run_bare, request):
    return run_bare(request.param)


STREAMS = """
VERSION = c_int()
cuda.cudaRuntimeGetVersion(byref(VERSION))

def stream():
    return new(cuda.cudaStreamCreateWithPriority, 1, 0)

def event(flags=0):
    return new(cuda.cudaEventCreateWithFlags, flags)

def begin(stream):
    return cuda.cudaStreamBeginCapture(stream, 2)

def end(stream):
    graph = c_void_p()
    return cuda.cudaStreamEndCapture(stream, byref(graph)), graph

def status(stream):
    found = c_int()
    assert cuda.cudaStreamIsCapturing(stream, byref(found)) == 0
    return found.value

def capture_of(stream):
    found, capture, none = c_int(), c_ulonglong(), None
    if VERSION.value >= 13000:
        info = cuda.cudaStreamGetCaptureInfo
    else:
        info = cuda.cudaStreamGetCaptureInfo_v3
    error = info(stream, byref(found), byref(capture), none, none, none, none)
    assert error == 0
    return capture.value

def num_nodes(graph):
    count = c_size_t()
    assert cuda.cudaGraphGetNodes(graph, None, byref(count)) == 0
    return count.value

def fill_on(stream):
    start = malloc(1)
    assert cuda.cudaMemsetAsync(c_void_p(start), 1, c_size_t(8), stream) == 0
"""


def test_streams_say_what_they_were_made_as(run):
    code = """
        made = new(cuda.cudaStreamCreateWithPriority, 1, -9)
        priority, flags, device = c_int(), c_uint(), c_int()
        first, second = c_ulonglong(), c_ulonglong()
        cuda.cudaStreamGetPriority(made, byref(priority))
        cuda.cudaStreamGetFlags(made, byref(flags))
        cuda.cudaStreamGetDevice(made, byref(device))
        cuda.cudaStreamGetId(made, byref(first))
        cuda.cudaStreamGetId(stream(), byref(second))
        print(priority.value, flags.value, device.value, first.value != second.value)
    """
    assert run(STREAMS, code) == "-5 1 0 True"


def test_events_are_over_at_once_and_a_constant_apart(run):
    code = """
        first, last, untimed, between = event(), event(), event(2), c_float()
        print(cuda.cudaEventElapsedTime(byref(between), first, last), end=" ")
        for recorded in (first, last, untimed):
            assert cuda.cudaEventRecord(recorded, None) == 0
            assert cuda.cudaEventQuery(recorded) == 0
        assert cuda.cudaEventElapsedTime(byref(between), first, last) == 0
        print(between.value, cuda.cudaEventElapsedTime(byref(between), first, untimed))
    """
    assert run(STREAMS, code) == "400 1.0 400"


def test_host_functions_run_where_they_are_given(run):
    code = """
        called = []
        host = ctypes.CFUNCTYPE(None, c_void_p)(called.append)
        back = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_void_p)
        back = back(lambda stream, status, data: called.append((status, data)))
        assert cuda.cudaLaunchHostFunc(None, host, c_void_p(7)) == 0
        assert cuda.cudaStreamAddCallback(None, back, c_void_p(8), 0) == 0
        print(called)
    """
    assert run(STREAMS, code) == "[7, (0, 8)]"


def test_a_graph_holds_what_was_captured(run):
    code = """
        captured, other = stream(), stream()
        print(status(captured), capture_of(captured), begin(captured))
        print(status(captured), capture_of(captured) > 0, status(other))
        fill_on(captured), fill_on(other), fill_on(captured)
        error, graph = end(captured)
        print(error, num_nodes(graph), status(captured))
        print(cuda.cudaGraphDestroy(graph))
    """
    assert run(STREAMS, code).splitlines() == ["0 0 0", "1 True 0", "0 2 0", "0"]


def test_nodes_depend_on_those_before_them(run):
    code = """
        captured = stream()
        begin(captured), fill_on(captured), fill_on(captured)
        error, graph = end(captured)
        nodes, count = (c_void_p * 2)(), c_size_t(2)
        assert cuda.cudaGraphGetNodes(graph, nodes, byref(count)) == 0
        found, number = c_void_p(), c_size_t(1)
        arguments = (None,) if VERSION.value >= 13000 else ()
        for node in nodes:
            number.value = 1
            assert cuda.cudaGraphNodeGetDependencies(
                c_void_p(node), byref(found), *arguments, byref(number)) == 0
            print(number.value, found.value == nodes[0])
    """
    assert run(STREAMS, code).splitlines() == ["0 False", "1 True"]


def test_a_stream_that_waits_takes_part_until_the_capture_ends(run):
    code = """
        origin, side, recorded = stream(), stream(), event()
        begin(origin)
        fill_on(origin)
        cuda.cudaEventRecord(recorded, origin)
        cuda.cudaStreamWaitEvent(side, recorded, 0)
        print(status(side), capture_of(side) == capture_of(origin))
        fill_on(side)
        cuda.cudaEventRecord(recorded, side)
        cuda.cudaStreamWaitEvent(origin, recorded, 0)
        error, graph = end(origin)
        print(error, num_nodes(graph), status(side))
        cuda.cudaStreamWaitEvent(side, recorded, 0)
        print(status(side))
    """
    assert run(STREAMS, code).splitlines() == ["1 True", "0 2 0", "0"]


def test_captures_do_not_mix(run):
    code = """
        first, second, recorded = stream(), stream(), event()
        begin(first), begin(second)
        cuda.cudaEventRecord(recorded, first)
        print(cuda.cudaStreamWaitEvent(second, recorded, 0), end=" ")
        print(capture_of(first) != capture_of(second))
    """
    assert run(STREAMS, code) == "902 True"


def test_wrong_captures_are_errors(run):
    code = """
        captured, side, recorded = stream(), stream(), event()
        print(begin(None), end(captured)[0], begin(captured), begin(captured))
        cuda.cudaEventRecord(recorded, captured)
        cuda.cudaStreamWaitEvent(side, recorded, 0)
        print(end(side)[0], end(captured)[0], status(captured))
        begin(captured)
        print(cuda.cudaStreamSynchronize(captured), status(captured), end(captured)[0])
        print(cuda.cudaStreamSynchronize(captured))
    """
    assert run(STREAMS, code).splitlines() == [
        "900 903 0 900",
        "903 901 0",
        "900 2 901",
        "0",
    ]


def test_host_functions_of_a_graph_run_at_each_launch(run):
    code = """
        called = []
        host = ctypes.CFUNCTYPE(None, c_void_p)(called.append)
        captured = stream()
        begin(captured)
        cuda.cudaLaunchHostFunc(captured, host, c_void_p(7))
        error, graph = end(captured)
        ready = new(cuda.cudaGraphInstantiateWithFlags, graph, c_ulonglong(0))
        cuda.cudaGraphDestroy(graph)
        print(called, end=" ")
        cuda.cudaGraphLaunch(ready, captured), cuda.cudaGraphLaunch(ready, captured)
        print(called, cuda.cudaGraphExecDestroy(ready))
    """
    assert run(STREAMS, code) == "[] [7, 7] 0"


def test_what_a_graph_keeps_lives_as_long_as_what_was_made_of_it(run):
    code = """
        gone = []
        destroy = ctypes.CFUNCTYPE(None, c_void_p)(gone.append)
        kept = new(cuda.cudaUserObjectCreate, c_void_p(7), destroy, 1, 1)
        graph = new(cuda.cudaGraphCreate, 0)
        assert cuda.cudaGraphRetainUserObject(graph, kept, 1, 0) == 0
        assert cuda.cudaUserObjectRelease(kept, 1) == 0
        ready = new(cuda.cudaGraphInstantiate, graph, c_ulonglong(0))
        assert cuda.cudaGraphDestroy(graph) == 0
        print(gone, end=" ")
        assert cuda.cudaGraphExecDestroy(ready) == 0
        print(gone)
    """
    assert run(STREAMS, code) == "[] [7]"


def test_a_conditional_node_brings_its_branches(run):
    code = """
        class Params(ctypes.Structure):
            _fields_ = [("type", c_int), ("reserved", c_int * 3),
                        ("handle", c_ulonglong), ("kind", c_int), ("size", c_uint),
                        ("bodies", ctypes.POINTER(c_void_p)), ("rest", c_char * 208)]
        graph, node, params = new(cuda.cudaGraphCreate, 0), c_void_p(), Params(13)
        params.size = 1
        newer = VERSION.value >= 13000
        add = cuda.cudaGraphAddNode if newer else cuda.cudaGraphAddNode_v2
        error = add(byref(node), graph, None, None, c_size_t(0), byref(params))
        body, branch = c_void_p(params.bodies[0]), stream()
        zero = c_size_t(0)
        begun = cuda.cudaStreamBeginCaptureToGraph(branch, body, None, None, zero, 2)
        fill_on(branch)
        ended = end(branch)
        print(error, begun, ended[0], ended[1].value == body.value, num_nodes(body),
              num_nodes(graph), cuda.cudaGraphDestroy(graph))
    """
    assert run(STREAMS, code) == "0 0 0 True 1 1 0"
