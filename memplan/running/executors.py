"""Where a sweep runs: in threads here, or on a cluster.

    with executor_of("dask://10.0.0.1:8786") as executor:
        ...                         # a concurrent.futures.Executor; None: threads here

Dask is imported where its address is named, or where a task of it is running.
"""

import asyncio
import logging
import struct
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from memplan.errors import ExecutorError, UnknownNameError

LOCAL = "local"
TRANSPORTS = {"dask": "tcp", "dask+tls": "tls"}
"""What Dask calls them."""
KNOWN = (LOCAL, "dask://HOST:PORT", "dask+tls://HOST:PORT")
PATIENCE_S = 5
"""For a scheduler to answer."""
NO_SCHEDULER = (OSError, ValueError, MemoryError, struct.error)
"""Nothing answers in time; or something else does, its words taken for lengths."""
SETTINGS = "Name it and its key under distributed.comm.tls, as docs/executors.md shows."
ALIVE = ("init", "running", "paused", "closing_gracefully")
"""What a worker calls itself while it is to finish what it has begun."""


@contextmanager
def executor_of(name: str) -> Iterator[Executor | None]:
    """The executor of that name, for as long as the block lasts.

    Args:
        name: local, dask://HOST:PORT or dask+tls://HOST:PORT.

    Raises:
        UnknownNameError: it is none of these.
        ExecutorError: Dask is not installed, or nothing of it is there.
    """
    if name == LOCAL:
        yield None
        return
    with _client(_address(name), name) as client:
        yield client.get_executor(pure=False)


def given_up() -> Callable[[], bool] | None:
    """In a task of Dask: tells whether nobody waits for it any more; None elsewhere.

    Who asked has cancelled it, or is gone, or the worker is about to end. Dask
    interrupts no task that runs: it has to look for itself.
    """
    distributed: Any = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        worker = distributed.get_worker()
    except ValueError:  # Dask is loaded here, and this is no task of it
        return None
    key = worker.get_current_task()

    def is_given_up() -> bool:
        task = worker.state.tasks.get(key)
        is_wanted = task is not None and task.state != "cancelled"
        return not is_wanted or worker.status.name not in ALIVE

    return is_given_up


def for_another_worker() -> Exception:
    """In a task of Dask: what it raises to be run again, elsewhere."""
    distributed: Any = sys.modules["distributed"]
    reschedule: Exception = distributed.Reschedule()
    return reschedule


def has_killed_workers(error: BaseException) -> bool:
    """Whether every worker of Dask that tried a task died of it."""
    distributed: Any = sys.modules.get("distributed")
    return distributed is not None and isinstance(error, distributed.KilledWorker)


@contextmanager
def _client(address: str, name: str) -> Iterator[Any]:
    if find_spec("distributed") is None:
        raise ExecutorError(
            f"{name} needs distributed, which is not installed.",
            hint='pip install "memplan[dask]"',
        )
    from distributed import Client

    secrets = _secrets(address)
    # What it has to say comes as an exception too.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        asyncio.run(asyncio.wait_for(_knock(address, secrets), PATIENCE_S))
        client = Client(address, timeout=PATIENCE_S, set_as_default=False)
    except NO_SCHEDULER as error:
        raise ExecutorError(
            f"No scheduler of Dask answers at {name}.",
            hint="Start one with `dask scheduler`, and name its host and port.",
        ) from error
    with client:
        workers = client.run(find_spec, "memplan", on_error="return")
        if not workers:
            raise ExecutorError(
                f"The scheduler at {name} has no workers.",
                hint=f"Start some: dask worker {address} --nthreads 1",
            )
        # What they cannot import ends them, and the scheduler asks the next one.
        if without := [worker for worker, spec in workers.items() if spec is None]:
            raise ExecutorError(
                f"memplan is not installed for the workers {', '.join(without)}.",
                hint="Have the same packages on all machines.",
            )
        yield client


def _secrets(address: str) -> dict[str, Any]:
    """What Dask's own settings say of certificates.

    Raises:
        ExecutorError: they are needed, and not there.
    """
    from distributed import Security

    try:
        secrets: dict[str, Any] = Security().get_connection_args("client")
    except OSError as error:
        raise ExecutorError(
            f"A certificate of Dask's settings cannot be read: {error}.", hint=SETTINGS
        ) from error
    if address.startswith("tls:") and secrets["ssl_context"] is None:
        raise ExecutorError(
            "dask+tls needs a certificate, and Dask's settings name none.",
            hint=SETTINGS,
        )
    return secrets


async def _knock(address: str, secrets: dict[str, Any]) -> None:
    """Shake hands with a scheduler: a client that fails to start takes its time to end.

    Raises what is in NO_SCHEDULER.
    """
    from distributed.comm import connect

    comm = await connect(address, **secrets)
    await comm.close()


def _address(name: str) -> str:
    """As Dask writes it.

    Raises:
        UnknownNameError: it names no executor.
    """
    try:
        parts = urlsplit(name)
        transport, host, port = TRANSPORTS[parts.scheme], parts.hostname, parts.port
        if not host or not port:
            raise ValueError(name)
    except (KeyError, ValueError) as error:
        raise UnknownNameError.of("executor", name, KNOWN) from error
    return f"{transport}://{f'[{host}]' if ':' in host else host}:{port}"
