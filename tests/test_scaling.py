"""The formulas of docs/scaling.md against the simulation, and the page against what the script writes."""

import os
import subprocess
import sys

import pytest
from conftest import PROJECT
from course import mpi, scaling


@pytest.mark.parametrize("ranks", [2, 3, 8, 32])
@pytest.mark.parametrize("latency", [1e-6, 1e-3])
def test_the_ring_takes_what_the_simulation_says(ranks, latency):
    network = scaling.Network("", latency, 1e9)
    work = scaling.Work("", 50e6, 0.02, 0, 64, 0)
    simulated = scaling.simulate(ranks, work, network, spread=0, seed=1, steps=3)
    formula = work.compute + sum(scaling.ring(ranks, size, network) for size in scaling.buckets(work.gradient))
    assert simulated == pytest.approx(formula, rel=1e-9)


def test_the_slowest_is_as_slow_as_drawn():
    network = scaling.Network("", 0, 1e18)
    work = scaling.Work("", 4, 1.0, 0, 64, 0)
    for ranks in (2, 16, 128):
        drawn = scaling.simulate(ranks, work, network, spread=0.05, seed=3, steps=400)
        assert drawn == pytest.approx(1 + scaling.waiting(ranks, 0.05), rel=0.005)
    assert scaling.waiting(1, 0.05) == 0


def test_the_fastest_algorithm_is_taken():
    network = scaling.Network("", 1e-5, 1e9)
    assert scaling.all_reduce(64, 100, network) == scaling.doubling(64, 100, network)
    assert scaling.all_reduce(64, 1e8, network) == scaling.halving(64, 1e8, network)
    assert scaling.all_reduce(1, 1e8, network) == 0
    # What every rank has to send and to receive, whatever the algorithm.
    assert scaling.all_reduce(64, 1e8, network) >= 2 * 63 / 64 * 1e8 / network.bandwidth


def test_overlapping_hides_the_sum_and_never_more():
    network = scaling.Network("", 0, 1e9)
    for gradient in (1e7, 1e8, 1e9):
        work = scaling.Work("", gradient, 0.1, 0, 64, 0)
        apart, overlapped = scaling.step(8, work, network), scaling.step(8, work, network, overlap=True)
        summed = sum(scaling.all_reduce(8, size, network) for size in scaling.buckets(gradient))
        assert max(work.compute, summed) <= overlapped < apart
        assert apart == pytest.approx(work.compute + summed, rel=1e-4)


def test_a_fit_finds_what_the_times_were_made_of():
    points = [(size, 3e-5 + size / 2e9) for size in (4, 4e3, 4e5, 4e7)]
    start, slope, worst = scaling.fit(points)
    assert (start, 1 / slope, worst) == (pytest.approx(3e-5), pytest.approx(2e9), pytest.approx(0, abs=1e-9))


def test_what_lacks_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(mpi.shutil, "which", lambda name: None)
    assert "no mpicc" in mpi.missing() and mpi.INSTALL in mpi.missing()


@pytest.mark.parametrize("mpicc", ["/nowhere/mpicc", "false"], ids=["none", "one without headers"])
def test_a_build_without_mpi_says_what_to_install(mpicc, tmp_path):
    command = ["cargo", "build", "--locked", "-p", "candle_course_mpi", "--target-dir", str(tmp_path)]
    environment = os.environ | {"MPICC": mpicc, "PKG_CONFIG_LIBDIR": "/nowhere", "CARGO_TERM_COLOR": "never"}
    result = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert result.returncode != 0
    assert "candle_course's feature `mpi` needs an MPI with its headers on this machine" in result.stderr
    assert mpi.INSTALL in result.stderr and "MPICC=/path/to/mpicc" in result.stderr


def test_the_page_is_what_the_script_writes(tmp_path):
    result = subprocess.run([sys.executable, str(PROJECT / "scripts" / "scaling"), "--check"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
