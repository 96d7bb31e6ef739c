"""``wam doctor``: each thing that can be missing is called missing, says how to get it, and only breakage fails."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from wam import doctor
from wam.doctor import ABILITIES, as_text, find_disk, find_gl, find_robots, main, run_probe
from wam.doctor_probes import BROKEN, GL_PACKAGES, MISSING, OK, PROBES, Finding, probe_video
from wam.doctor_ros import find_image_profile, find_shared_memory

FINE = Finding(status=OK, value="fine")


def fake_library(folder: Path, name: str, source: str) -> dict[str, str]:
    """Environment in which ``import name`` runs the given source."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)
    return {"PYTHONPATH": f"{folder}:{Path(doctor.__file__).resolve().parent.parent}"}


def not_installed(folder: Path, name: str) -> dict[str, str]:
    return fake_library(folder, name, f"raise ModuleNotFoundError('No module named {name}', name='{name}')")


@pytest.fixture
def fine_report() -> dict[str, Finding]:
    return {title: FINE for needs in ABILITIES.values() for title in needs}


@pytest.mark.parametrize(
    ("probe", "library", "status", "fix"),
    [
        ("torch", "torch", MISSING, "pip install 'world_action_model[train]'"),
        ("lerobot", "lerobot", MISSING, "pip install 'world_action_model[train]'"),
        ("onnxruntime", "onnxruntime", BROKEN, "pip install onnxruntime"),
        ("tensorrt", "tensorrt", MISSING, "it comes with JetPack"),
        ("ros", "rclpy", MISSING, "source /opt/ros/<distro>/setup.bash"),
        ("gl", "mujoco", MISSING, "pip install 'world_action_model[sim]'"),
        ("video", "av", MISSING, "pip install 'world_action_model[sim]'"),
    ],
)
def test_library_that_is_not_installed(tmp_path: Path, probe: str, library: str, status: str, fix: str) -> None:
    environment = not_installed(tmp_path, library)
    if library == "tensorrt":
        not_installed(tmp_path, "tensorrt_rtx")
    finding = run_probe(probe, environment)
    assert finding.status == status
    assert fix in finding.fix


def test_a_probe_that_crashes_is_broken_and_gives_the_last_line(tmp_path: Path) -> None:
    finding = run_probe("torch", fake_library(tmp_path, "torch", "raise OSError('libcudart.so.13: cannot open')"))
    assert finding == Finding(status=BROKEN, value="exit status 1: OSError: libcudart.so.13: cannot open")


def test_a_probe_that_dies_without_a_word_is_broken(tmp_path: Path) -> None:
    finding = run_probe("torch", fake_library(tmp_path, "torch", "import os; os.abort()"))
    assert finding.status == BROKEN
    assert finding.value.startswith("exit status -6")


def test_a_probe_that_hangs_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.5)
    finding = run_probe("torch", fake_library(tmp_path, "torch", "import time; time.sleep(60)"))
    assert finding == Finding(status=BROKEN, value="no answer within 0.5 s")


def test_a_library_that_prints_while_imported_does_not_disturb(tmp_path: Path) -> None:
    source = "print('hello'); __version__ = '9.9'; get_available_providers = lambda: ['CUDAExecutionProvider']"
    finding = run_probe("onnxruntime", fake_library(tmp_path, "onnxruntime", source))
    assert finding == Finding(status=OK, value="9.9, providers: CUDA")


def test_video_round_trip_works_here() -> None:
    assert probe_video().status == OK


def test_gl_takes_the_first_backend_that_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    asked = []

    def answer(name: str, environment: dict[str, str]) -> Finding:
        asked.append(environment["MUJOCO_GL"])
        return FINE if asked[-1] == "osmesa" else Finding(status=BROKEN, value="no display")

    monkeypatch.setattr(doctor, "run_probe", answer)
    assert find_gl() == FINE
    assert asked == ["egl", "osmesa"]


def test_gl_that_nothing_renders_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(doctor, "run_probe", lambda *_: Finding(status=BROKEN, value="no display"))
    finding = find_gl()
    assert finding.value == "egl: no display; osmesa: no display"
    assert finding.fix == f"sudo apt-get install -y {GL_PACKAGES}"


def test_gl_backend_of_the_user_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    finding = find_gl()
    assert finding.status == BROKEN
    assert "nonsense" in finding.value
    assert "osmesa" not in finding.value
    assert finding.fix.startswith("unset MUJOCO_GL (now nonsense)")


def test_full_disk_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3e8))
    finding = find_disk(tmp_path)
    assert finding.status == BROKEN
    assert finding.value == f"0.3 GB free at {tmp_path}"
    assert "free some space" in finding.fix


def test_robot_files_are_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_robots().status == OK
    (tmp_path / "broken.yaml").write_text("name: broken\n")
    monkeypatch.setenv("WAM_ROBOT_DIR", str(tmp_path))
    finding = find_robots()
    assert finding.status == BROKEN
    assert "field 'joints' is missing" in finding.value


def test_no_robot_file_at_all_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "robot_names", lambda: ())
    assert find_robots().status == BROKEN
    assert "WAM_ROBOT_DIR" in find_robots().fix


def test_missing_things_do_not_fail_and_broken_ones_do(
    fine_report: dict[str, Finding], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = fine_report | {"ROS 2": Finding(status=MISSING, value="no", fix="source it")}
    monkeypatch.setattr(doctor, "examine", lambda: report)
    assert main([]) == 0
    report["rendering"] = Finding(status=BROKEN, value="no display", fix="install it")
    assert main(["--json"]) == 1
    table, _, text = capsys.readouterr().out.partition("{")
    assert "missing  ROS 2" in table
    assert json.loads("{" + text)["rendering"] == {"status": BROKEN, "value": "no display", "fix": "install it"}


def test_table_gives_each_fix_and_what_is_possible(fine_report: dict[str, Finding]) -> None:
    lines = as_text(fine_report | {"torch": Finding(status=MISSING, value="not installed", fix="get it")}).splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith("missing  torch"))
    assert lines[row].endswith("not installed")
    assert lines[row + 1].strip() == "-> get it"
    assert "run a policy: yes" in lines
    assert "record and train: no, needs torch" in lines


def test_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--jsn"])
    assert stop.value.code == 2
    assert "--json" in capsys.readouterr().err


@pytest.mark.slow  # imports torch and lerobot, and renders
def test_this_machine_can_do_what_the_other_tests_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 600.0)  # for the first import of all, on a busy machine
    status = main(["--json"])
    report = json.loads(capsys.readouterr().out)
    assert len(report) == 7 + len(PROBES)
    working = {title for title, finding in report.items() if finding["status"] == OK}
    assert {"Python", "system", "torch", "LeRobot", "ONNX Runtime", "rendering", "video", "robot files"} <= working
    assert status == int(any(finding["status"] == BROKEN for finding in report.values()))
    assert all(finding["fix"] for finding in report.values() if finding["status"] == MISSING)


def test_shared_memory_of_a_container_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=60e6, total=67e6))
    finding = find_shared_memory(tmp_path)
    assert finding.status == MISSING
    assert finding.value == f"60 of 67 MB free at {tmp_path}"
    assert "docker run --ipc host" in finding.fix
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=60e6, total=8e9))
    assert "remove what killed ones left" in find_shared_memory(tmp_path).fix
    assert find_shared_memory(tmp_path / "none").status == MISSING
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4e9, total=8e9))
    assert find_shared_memory(tmp_path).status == OK


def test_image_profile_of_this_shell(tmp_path: Path) -> None:
    profile = tmp_path / "profile.xml"
    profile.touch()
    given = find_image_profile({"FASTRTPS_DEFAULT_PROFILES_FILE": str(profile)})
    assert given == Finding(status=OK, value=f"FASTRTPS_DEFAULT_PROFILES_FILE={profile}")
    gone = find_image_profile({"FASTDDS_DEFAULT_PROFILES_FILE": "/no/such.xml"})
    assert (gone.status, gone.fix) == (BROKEN, "unset FASTDDS_DEFAULT_PROFILES_FILE")
    none = find_image_profile({"ROS_DISTRO": "kilted"})
    assert none.status == MISSING
    assert "export FASTDDS_DEFAULT_PROFILES_FILE=<share>/config/fastdds_kilted.xml" in none.fix
    assert "fastdds_jazzy.xml" in find_image_profile({}).fix
    assert find_image_profile({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}).status == OK


@pytest.mark.ros
def test_ros_names_its_middleware() -> None:
    finding = run_probe("ros")
    assert finding.status == OK
    assert ", rmw_" in finding.value
