"""The code in docs/ runs as it stands there: YAML blocks are valid files, Python blocks run one after the other."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from calibration.camera_info import read_camera_info
from wam.robot import RobotSpec, SafetySpec

DOCUMENTS = sorted((Path(__file__).resolve().parent.parent / "docs").glob("*.md"))


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_python_blocks_run(document: Path, repository: Path) -> None:
    code = "\n".join(blocks(document, "python"))
    # A process of its own, because a document may register tasks.
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_yaml_blocks_are_valid_robots_and_camera_infos(document: Path, tmp_path: Path) -> None:
    for block in blocks(document, "yaml"):
        data = yaml.safe_load(block)
        if "camera_matrix" in data:
            (tmp_path / "camera.yaml").write_text(block)
            lens = read_camera_info(tmp_path / "camera.yaml", camera=data["camera_name"])
            assert lens.focal_px == tuple(data["camera_matrix"]["data"][place] for place in (0, 4))
        else:
            assert RobotSpec.from_dict(data).name == data["name"]


def test_safety_defaults_in_the_example_are_the_defaults(repository: Path) -> None:
    (robot,) = map(yaml.safe_load, blocks(repository / "docs/adding_a_robot.md", "yaml"))
    assert set(robot["safety"]) == {field.name for field in dataclasses.fields(SafetySpec)}
    assert RobotSpec.from_dict(robot).safety == SafetySpec()


def test_there_is_something_to_check() -> None:
    names = {path.name for path in DOCUMENTS}
    assert {"adding_a_robot.md", "adding_a_task.md"} <= names
    assert any(blocks(path, "yaml") for path in DOCUMENTS)
    assert any(blocks(path, "python") for path in DOCUMENTS)


def test_linked_documents_exist(repository: Path) -> None:
    wrong = []
    for document in [*DOCUMENTS, *repository.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            if "://" not in target and not (document.parent / target).exists():
                wrong.append(f"{document.name}: {target}")
    assert not wrong, wrong


def test_files_a_document_names_exist(repository: Path) -> None:
    folders = "wam|policy|sim|calibration|ros_nodes|tests|config|docs|requirements"
    wrong = []
    for document in [*DOCUMENTS, *repository.glob("*.md")]:
        for name in re.findall(rf"`((?:{folders})/[\w./]+\.(?:py|md|yaml|xml|txt|sh))`", document.read_text()):
            if not (repository / name).exists() and "my_arm" not in name:  # my_arm is the reader's robot
                wrong.append(f"{document.name}: {name}")
    assert not wrong, wrong
