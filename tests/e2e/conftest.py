"""Models for the end-to-end tests, made once into the build directory."""

import subprocess
import sys

import pytest

from fleet import MODELS, ROOT, SLOW, Fleet


def make(name, *command):
    directory = MODELS / name
    if not (directory / "config.json").exists():
        MODELS.mkdir(parents=True, exist_ok=True)
        subprocess.run(["/usr/bin/python3", str(ROOT / "tools" / command[0]), str(directory),
                        *command[1:]], check=True)
    return directory


@pytest.fixture(scope="session")
def recall():
    return make("recall", "make_recall.py")


@pytest.fixture(scope="session")
def tiny():
    """Four layers, four query and two KV heads of 32: every structure of a large model, small."""
    return make("tiny", "make_random.py", "--family", "llama", "--hidden", "128", "--layers", "4",
                "--heads", "4", "--kv-heads", "2", "--head-dim", "64", "--mlp", "256", "--vocab",
                "2048", "--seed", "11")


@pytest.fixture(scope="session")
def other():
    """The same shape with other weights: another identity."""
    return make("other", "make_random.py", "--family", "llama", "--hidden", "128", "--layers", "4",
                "--heads", "4", "--kv-heads", "2", "--head-dim", "64", "--mlp", "256", "--vocab",
                "2048", "--seed", "12")


@pytest.fixture(scope="session")
def slow():
    """Big enough that a prompt of thousands of tokens takes seconds on two cores; sanitizers need less for that."""
    hidden, layers, heads, kv_heads, mlp = (768, 10, 12, 4, 2048) if SLOW == 1 else (384, 5, 6, 2, 1024)
    return make("slow", "make_random.py", "--family", "llama", "--hidden", str(hidden), "--layers", str(layers),
                "--heads", str(heads), "--kv-heads", str(kv_heads), "--head-dim", "64", "--mlp", str(mlp),
                "--vocab", "2048", "--seed", "13")


@pytest.fixture(scope="module")
def fleet(recall):
    """The default deployment, shared by tests that leave it as they found it."""
    with Fleet(recall) as running:
        yield running


@pytest.fixture(scope="module")
def random_fleet(tiny):
    """A model that never repeats itself, for what recall is too sure of."""
    with Fleet(tiny) as running:
        yield running
