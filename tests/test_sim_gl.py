"""Choice of the off-screen renderer; each case is a fresh interpreter, because MuJoCo reads the choice once."""

import os
import subprocess
import sys

import pytest

from sim import gl


def python(code: str, repository, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in {"MUJOCO_GL", "PYOPENGL_PLATFORM"}}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_users_choice_wins(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert gl.choose_backend() == "osmesa"


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        ({"libEGL.so.1", "libGL.so.1", "libOSMesa.so.8"}, "egl"),
        ({"libEGL.so.1", "libOSMesa.so.8"}, "osmesa"),
        ({"libOSMesa.so.8"}, "osmesa"),
        (set(), "disable"),
    ],
)
def test_the_first_backend_with_all_its_libraries_is_taken(monkeypatch, present, chosen):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "_loads", present.__contains__)
    assert gl.choose_backend() == chosen


def test_physics_runs_without_any_opengl_and_drawing_says_what_to_install(repository):
    code = (
        "from sim.arm_sim import ArmSim; from wam.robot import load_robot\n"
        "sim = ArmSim('lift', load_robot('sim6')); sim.step(sim.proprio()); print('stepped', flush=True)\n"
        "sim.render('front')"
    )
    done = python(code, repository, MUJOCO_GL="disable")
    assert done.stdout.strip() == "stepped"
    assert "SimError: no off-screen OpenGL here (MUJOCO_GL=disable)" in done.stderr
    assert "apt-get install -y libegl1" in done.stderr


def test_an_unknown_backend_is_named(repository):
    done = python("import sim.gl", repository, MUJOCO_GL="vulkan")
    assert "SimError: MuJoCo cannot start with MUJOCO_GL=vulkan" in done.stderr


def test_forgotten_renderers_are_closed_in_silence(repository):
    code = (
        "from sim.arm_sim import ArmSim; from wam.robot import load_robot\n"
        "sim = ArmSim('lift', load_robot('sim6')); sim.render('front'); print('drawn')"
    )
    done = python(code, repository)
    assert done.returncode == 0
    assert done.stdout.strip() == "drawn"
    assert done.stderr == ""
