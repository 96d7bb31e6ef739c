"""The scripts behind the Makefile, run for real; stand-ins for Python, uv and apt-get write down their calls."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
TOOLS = "/usr/bin:/bin:/usr/sbin:/sbin"

# Answers version questions like Python 3.12, and makes a "virtual environment" of itself and the stand-in for uv.
FAKE_PYTHON = f"""#!/bin/bash
case "$1 $2" in
  "-m venv")
    folder="${{@: -1}}/bin"
    mkdir -p "$folder"
    cp "$0" "$folder/python"
    cp "$FAKES/uv" "$folder/uv"
    echo venv >>"$CALLS" ;;
  "-c "*) exec {sys.executable} "$@" ;;
esac
"""
# Writes down its arguments and, of a requirements file other than the lock, every line about torch and its libraries.
FAKE_UV = """#!/bin/bash
echo "uv $*" | sed -E 's# --python [^ ]+##; s#/tmp/tmp[^ ]*#REST#' >>"$CALLS"
for file in "$@"; do
  if [[ "$file" == /tmp/tmp.* ]]; then
    grep -oE '^(torch|torchvision|torchcodec|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==' "$file" >>"$CALLS"
  fi
done
exit 0
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files the environment is made from, beside stand-ins for the tools."""
    folder = tmp_path / "checkout"
    (folder / "requirements").mkdir(parents=True)
    for name in ("setup.py", "setup.cfg", "requirements/environment.sh", "requirements/gl.sh", "requirements/lock.txt"):
        shutil.copy2(REPOSITORY / name, folder / name)
    (tmp_path / "fakes").mkdir()
    for name, source in {"python3.12": FAKE_PYTHON, "uv": FAKE_UV}.items():
        add_tool(tmp_path, name, source)
    return folder


def add_tool(tmp_path: Path, name: str, source: str) -> None:
    path = tmp_path / "fakes" / name
    path.write_text(source)
    path.chmod(0o755)


def call(checkout: Path, script: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs a script; returns its result and what the stand-ins were asked to do."""
    calls = checkout.parent / "calls"
    calls.write_text("")
    fakes = checkout.parent / "fakes"
    environment = {"PATH": f"{fakes}:{TOOLS}", "HOME": str(checkout.parent), "CALLS": str(calls), "FAKES": str(fakes)}
    result = subprocess.run(
        ["bash", f"requirements/{script}"],
        cwd=checkout,
        env=environment | {"TMPDIR": "/tmp"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return result, calls.read_text().splitlines()


SYNC = "uv pip sync --quiet requirements/lock.txt"
EDITABLE = "uv pip install --quiet --no-deps --no-build-isolation --editable ."


def test_environment_is_made_once(checkout: Path) -> None:
    result, calls = call(checkout, "environment.sh")
    assert result.returncode == 0, result.stderr
    assert calls == ["venv", SYNC, EDITABLE]
    again, calls = call(checkout, "environment.sh")
    assert (again.returncode, again.stderr, calls) == (0, "", [])


def test_changed_lock_updates_in_place(checkout: Path) -> None:
    call(checkout, "environment.sh")
    with (checkout / "requirements/lock.txt").open("a") as lock:
        lock.write("zzz==1.0\n")
    assert call(checkout, "environment.sh")[1] == [SYNC, EDITABLE]


def test_recreate_starts_anew(checkout: Path) -> None:
    call(checkout, "environment.sh")
    assert call(checkout, "environment.sh", RECREATE="1")[1] == ["venv", SYNC, EDITABLE]


def test_failed_install_is_done_again(checkout: Path) -> None:
    add_tool(checkout.parent, "uv", "#!/bin/bash\nexit 3\n")
    assert call(checkout, "environment.sh")[0].returncode == 3
    add_tool(checkout.parent, "uv", FAKE_UV)
    shutil.copy2(checkout.parent / "fakes/uv", checkout / ".venv/bin/uv")
    assert call(checkout, "environment.sh")[1] == [SYNC, EDITABLE]


def test_torch_backend_replaces_torch_only_and_is_remembered(checkout: Path) -> None:
    calls = call(checkout, "environment.sh", TORCH_BACKEND="cpu")[1]
    assert calls[:3] == ["venv", "uv pip install --quiet --no-deps -r REST", "torchcodec=="]
    assert calls[3].startswith("uv pip install --quiet --torch-backend cpu torch==")
    assert " torchvision==" in calls[3]
    assert calls[4:] == [EDITABLE]
    assert call(checkout, "environment.sh")[1] == []
    assert call(checkout, "environment.sh", TORCH_BACKEND="default")[1] == ["venv", SYNC, EDITABLE]


def test_torch_wheels_are_installed_as_given(checkout: Path) -> None:
    calls = call(checkout, "environment.sh", TORCH_WHEEL="a.whl b.whl")[1]
    assert calls == [
        "venv",
        "uv pip install --quiet --no-deps -r REST",
        "uv pip install --quiet a.whl b.whl",
        EDITABLE,
    ]
    assert call(checkout, "environment.sh", TORCH_WHEEL="a.whl b.whl")[1] == []


def test_contradictory_choices_are_refused(checkout: Path) -> None:
    result, calls = call(checkout, "environment.sh", TORCH_BACKEND="cpu", TORCH_WHEEL="a.whl")
    assert result.returncode == 1
    assert "set TORCH_BACKEND or TORCH_WHEEL, not both." in result.stderr
    assert not calls


def test_a_python_that_does_not_work_is_refused(checkout: Path) -> None:
    result, calls = call(checkout, "environment.sh", PYTHON="/no/such/python")
    assert result.returncode == 1
    assert "PYTHON=/no/such/python is not a working Python 3.12: give the path of one" in result.stderr
    assert not calls


def test_lock_without_uv_is_refused(checkout: Path) -> None:
    (checkout / "requirements/lock.txt").write_text("numpy==2.0\n")
    result, _ = call(checkout, "environment.sh")
    assert result.returncode == 1
    assert "requirements/lock.txt does not pin uv: run 'make lock'." in result.stderr


def fake_machine(checkout: Path, libraries: str, user: int) -> None:
    add_tool(checkout.parent, "ldconfig", f"#!/bin/bash\necho '{libraries}'\n")
    add_tool(checkout.parent, "id", f"#!/bin/bash\necho {user}\n")
    add_tool(checkout.parent, "apt-get", '#!/bin/bash\necho "apt-get $*" >>"$CALLS"\n')


def test_missing_gl_says_the_one_command(checkout: Path) -> None:
    fake_machine(checkout, "libc.so.6", user=1000)
    result, calls = call(checkout, "gl.sh")
    assert result.returncode == 1
    assert "sudo apt-get install -y libegl1 libgl1 libgl1-mesa-dri" in result.stderr
    assert not calls


def test_missing_gl_is_installed_by_root(checkout: Path) -> None:
    fake_machine(checkout, "libEGL.so.1", user=0)  # the dispatcher alone is not enough
    result, calls = call(checkout, "gl.sh")
    assert result.returncode == 0, result.stderr
    assert calls[0] == "apt-get update -qq"
    assert calls[1].endswith("libegl1 libgl1 libgl1-mesa-dri")


@pytest.mark.parametrize("library", ["libOSMesa.so.8", "libEGL_nvidia.so.0"])
def test_gl_that_is_there_is_left_alone(checkout: Path, library: str) -> None:
    fake_machine(checkout, library, user=0)
    result, calls = call(checkout, "gl.sh")
    assert (result.returncode, calls) == (0, [])


def test_scripts_are_executable() -> None:
    for name in (".ci/run", "requirements/environment.sh", "requirements/gl.sh"):
        assert os.access(REPOSITORY / name, os.X_OK), name
