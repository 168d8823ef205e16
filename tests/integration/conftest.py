"""The servers of docker-compose.yml, started once for this folder's tests by pytest-docker.

pytest-docker expects `docker compose`, a file under tests/ and `up --wait`; the fixtures below are its own, overridden
so that docker-compose 1.29 and the file at the root serve as well.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.compose import GUTTER, HOST, SERVERS, Compose, RawConnection

ROOT = Path(__file__).parents[2]
PORT_VARIABLES = {
    "memcached1": "CACHEKIT_PORT_1",
    "memcached2": "CACHEKIT_PORT_2",
    "memcached3": "CACHEKIT_PORT_3",
    GUTTER: "CACHEKIT_PORT_GUTTER",
}


@pytest.fixture(scope="session")
def compose_environment() -> Iterator[None]:
    """Names the image and free ports for docker-compose.yml, whose every command reads them again."""
    made = subprocess.run([ROOT / "scripts/memcached-image.sh"], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.fail(f"no memcached image to be had; `make test` starts what is needed.\n{made.stderr}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMCACHED_IMAGE", made.stdout.strip())
        for variable, port in zip(PORT_VARIABLES.values(), free_ports(len(PORT_VARIABLES)), strict=True):
            patch.setenv(variable, str(port))
        yield


@pytest.fixture(scope="session")
def docker_compose_command(compose_environment: None) -> str:
    """`docker compose` where the plugin is, else `docker-compose` (1.29 does, too)."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return "docker compose" if plugin.returncode == 0 else "docker-compose"


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    """The file at the root, the same that users start."""
    return str(ROOT / "docker-compose.yml")


@pytest.fixture(scope="session")
def docker_setup() -> str:
    """1.29 knows no --wait; `compose` below waits itself."""
    return "up -d"


@pytest.fixture(scope="session")
def docker_cleanup() -> str:
    """Nothing is worth a graceful end."""
    return "down -v -t 0"


@pytest.fixture(scope="session")
def running_compose(
    docker_services: Any, docker_compose_command: str, docker_compose_file: str, docker_compose_project_name: str
) -> Compose:
    """The started project, every server answering."""
    ports = {service: docker_services.port_for(service, 11211) for service in (*SERVERS, GUTTER)}
    project = Compose(docker_compose_command, Path(docker_compose_file), docker_compose_project_name, ports)
    for service in ports:
        project.wait(service)
    return project


@pytest.fixture
def compose(running_compose: Compose) -> Iterator[Compose]:
    """The project, with every server up and empty before the test and up again after it."""
    for service in running_compose.ports:
        flush(running_compose, service)
    yield running_compose
    for service in running_compose.ports:
        running_compose.restore(service)


def flush(project: Compose, service: str) -> None:
    with RawConnection(project.ports[service]) as connection:
        assert connection.ask(b"flush_all") == b"OK"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that were free a moment ago, all different."""
    probes = [socket.create_server((HOST, 0)) for _ in range(count)]
    try:
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
