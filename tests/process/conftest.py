"""A Hub on this machine, and command lines that talk to it."""

import os
import shutil

import pytest

from fake_hub import Hub
from process.commands import Commands


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    yield folder
    shutil.rmtree(folder)  # pytest would keep three of them


@pytest.fixture(scope="session")
def hub():
    hub = Hub()
    yield hub
    hub.shutdown()


@pytest.fixture(scope="session")
def online(hub, home):
    yield from commands(hub, home, offline=False)


@pytest.fixture(scope="session")
def offline(hub, home):
    yield from commands(hub, home, offline=True)


def commands(hub, home, offline: bool):
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    started = Commands(hub, home, offline)
    yield started
    started.close()
