"""Fixtures: gateways in every shape that matters, and clients that are closed again."""

import contextlib
import ctypes
import itertools
import platform

import pytest

from client import Client
from cluster import ROUTINGS, Cluster
from gateway import BINARY, Gateway

DRIVERS = ["io_uring", "epoll"]
# Driver and number of shards. More than one shard, so that connections are handed over and messages cross; 3 does not divide 2.
SHAPES = [("io_uring", 2), ("io_uring", 3), ("epoll", 2), ("epoll", 3)]


def io_uring_works():
    """Whether this kernel, and what confines this process, allow io_uring."""
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(120)
    number = {"x86_64": 425, "aarch64": 425}.get(platform.machine(), 425)
    descriptor = libc.syscall(number, 4, parameters)
    if descriptor < 0:
        return False
    libc.close(descriptor)
    return True


IO_URING = io_uring_works()


def driver_param(driver, value, name):
    marks = [pytest.mark.skip(reason="io_uring is not allowed here")] if driver == "io_uring" and not IO_URING else []
    return pytest.param(value, id=name, marks=marks)


def pytest_sessionstart(session):
    if not BINARY.exists():
        pytest.exit(f"{BINARY} is missing: cargo build --release first, or set RINGGATE_BIN", returncode=3)


@pytest.fixture(scope="session", params=[driver_param(d, (d, n), f"{d}-{n}") for d, n in SHAPES])
def shape(request):
    """(driver, shards) of the shared gateways."""
    return request.param


@pytest.fixture(params=[driver_param(d, d, d) for d in DRIVERS])
def driver(request):
    """The driver of a gateway that a test starts for itself."""
    return request.param


def shared(shape, settings=None):
    driver, shards = shape
    return Gateway({"shards.driver": driver, "shards.count": shards, **(settings or {})})


@pytest.fixture(scope="session")
def gateway(shape):
    """A gateway in mode none, shared by all tests that need nothing special."""
    with shared(shape) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def echo_gateway(shape):
    """A gateway with `/echo` and messages of up to 4 MiB."""
    with shared(shape, {"echo.enabled": True, "limits.message_size": "4MiB"}) as gateway:
        yield gateway


@pytest.fixture
def start(driver):
    """Starts gateways with settings of their own; they are stopped, and must stop well, after the test."""
    started = []

    def start(settings=None, *, shards=2, **options):
        gateway = Gateway({"shards.driver": driver, "shards.count": shards, **(settings or {})}, **options)
        started.append(gateway)
        return gateway

    yield start
    errors = []
    for gateway in started:
        print(f"--- log of the gateway ---\n{gateway.log()[-4000:]}")
        try:
            gateway.stop()
        except AssertionError as error:
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture(scope="session", params=ROUTINGS)
def cluster(request):
    """Three nodes over one Redis, shared by all tests that leave them as they are."""
    with Cluster(request.param, drivers=IO_URING) as cluster:
        yield cluster
        # Whatever all these tests did: nothing went through all keys.
        assert not {"keys", "scan", "flushall", "flushdb"} & set(cluster.redis.calls())


@pytest.fixture
def start_cluster():
    """Starts clusters of a test's own; they are stopped, and must stop well, after the test."""
    with contextlib.ExitStack() as stack:

        def start_cluster(routing, count=2, settings=None, **options):
            return stack.enter_context(Cluster(routing, count, settings, drivers=IO_URING, **options))

        yield start_cluster


NUMBERS = itertools.count(1)


@pytest.fixture
def unique():
    """Makes names that no other test has used on the same gateway."""
    number = next(NUMBERS)
    return lambda name: f"{name}-{number}"


@pytest.fixture
def connect(unique):
    """Connects a client and takes its `auth:ok`; all are closed after the test."""
    opened = []

    def connect(gateway, user=None, *, exact=False, path="/ws", query=None, welcome=True, **options):
        query = dict(query or {})
        if user is not None:
            query["user_id"] = user if exact else unique(user)
        client = Client(gateway.url(path, **query), **options)
        opened.append(client)
        if welcome:
            client.welcome = client.expect("auth:ok")
            client.user = client.welcome["userId"]
        return client

    yield connect
    for client in opened:
        client.close()
