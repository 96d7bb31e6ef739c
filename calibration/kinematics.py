"""Forward kinematics of the robot file's MJCF or URDF through MuJoCo: joint positions to the tool's pose.

MuJoCo reads both formats; meshes and inertia are not needed (``calibration.model_files``). MuJoCo itself is imported
when a model is opened, so a robot without it can still run what needs no kinematics.

Shape legend: N poses, J joints in the order of the robot file, gripper left out.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.engine import import_mujoco
from calibration.errors import CalibrationError
from calibration.model_files import load_model
from wam.calibration_spec import KinematicsSpec
from wam.errors import unknown_name
from wam.robot import RobotSpec

__all__ = ["ForwardKinematics", "find_model", "open_kinematics"]


class ForwardKinematics:
    """``T_base_tool`` and its derivatives by the joints."""

    def __init__(self, model: Any, joints: Sequence[str], *, base: str = "", tool: str = "") -> None:
        """Indexes a compiled model.

        Args:
            model: ``mujoco.MjModel``.
            joints: Names of the J hinge or slide joints, in the order positions are given.
            base: Body whose frame poses are given in; the world when empty.
            tool: Body or site whose pose is wanted; the body that the last joint moves when empty.

        Raises:
            CalibrationError: The model lacks one of the names.
        """
        mujoco = import_mujoco()
        self._mujoco, self._model, self._data = mujoco, model, mujoco.MjData(model)
        self.joints = tuple(joints)
        present = [model.joint(i).name for i in range(model.njnt)]
        for name in self.joints:
            if name not in present:
                raise CalibrationError(
                    unknown_name("joint of the kinematic model", name, present, fix="Give both the same names.")
                )
        self._qpos = np.array([model.joint(name).qposadr[0] for name in self.joints])
        self._dofs = np.array([model.joint(name).dofadr[0] for name in self.joints])
        self._base = self._find_body(base) if base else 0
        self._is_site, self._tool = self._find_tool(tool)

    @property
    def limits(self) -> np.ndarray:
        """(J, 2) lowest and highest joint positions of the model [rad]."""
        ids = [self._model.joint(name).id for name in self.joints]
        return np.array(self._model.jnt_range[ids])

    def poses(self, positions: np.ndarray) -> np.ndarray:
        """Returns (N, 4, 4) ``T_base_tool`` for (N, J) joint positions [rad]."""
        return np.array([self._pose(row) for row in np.atleast_2d(positions)])

    def jacobians(self, positions: np.ndarray) -> np.ndarray:
        """Derivatives of the tool's pose in the tool's own frame.

        Args:
            positions: (N, J) joint positions [rad].

        Returns:
            (N, 6, J): ``T(q + d) = T(q) @ exp(J d)`` to first order, rotation [rad] above translation [m].
        """
        linear, angular = np.zeros((3, self._model.nv)), np.zeros((3, self._model.nv))
        result = np.zeros((len(np.atleast_2d(positions)), 6, len(self.joints)))
        for index, row in enumerate(np.atleast_2d(positions)):
            self._pose(row)
            self._mujoco.mj_comPos(self._model, self._data)
            if self._is_site:
                self._mujoco.mj_jacSite(self._model, self._data, linear, angular, self._tool)
                rotation = self._data.site_xmat[self._tool].reshape(3, 3)
            else:
                self._mujoco.mj_jacBody(self._model, self._data, linear, angular, self._tool)
                rotation = self._data.xmat[self._tool].reshape(3, 3)
            result[index, :3] = rotation.T @ angular[:, self._dofs]
            result[index, 3:] = rotation.T @ linear[:, self._dofs]
        return result

    def outline(self, positions: np.ndarray) -> np.ndarray:
        """(B, 3) positions of the joints and the tool along the arm in the base frame [m], for drawings."""
        tool = self._pose(np.asarray(positions, dtype=float))
        base = self._frame(self._data.xpos[self._base], self._data.xmat[self._base])
        anchors = [self._data.xanchor[self._model.joint(name).id] for name in self.joints]
        moved = np.linalg.inv(base) @ np.concatenate([np.array(anchors).T, np.ones((1, len(anchors)))])
        return np.concatenate([np.zeros((1, 3)), moved[:3].T, tool[None, :3, 3]])

    def _pose(self, row: np.ndarray) -> np.ndarray:
        self._data.qpos[self._qpos] = row
        self._mujoco.mj_kinematics(self._model, self._data)
        data = self._data
        tool = (
            self._frame(data.site_xpos[self._tool], data.site_xmat[self._tool])
            if self._is_site
            else self._frame(data.xpos[self._tool], data.xmat[self._tool])
        )
        if not self._base:  # the world's own frame
            return tool
        return np.linalg.inv(self._frame(data.xpos[self._base], data.xmat[self._base])) @ tool

    @staticmethod
    def _frame(position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation.reshape(3, 3), position
        return matrix

    def _find_body(self, name: str) -> int:
        bodies = [self._model.body(i).name for i in range(self._model.nbody)]
        if name not in bodies:
            raise CalibrationError(unknown_name("body of the kinematic model", name, bodies))
        return int(self._model.body(name).id)

    def _find_tool(self, name: str) -> tuple[bool, int]:
        if not name:
            return False, int(self._model.joint(self.joints[-1]).bodyid[0])
        sites = [self._model.site(i).name for i in range(self._model.nsite)]
        bodies = [self._model.body(i).name for i in range(self._model.nbody)]
        if name in bodies:
            return False, int(self._model.body(name).id)
        if name in sites:
            return True, int(self._model.site(name).id)
        raise CalibrationError(unknown_name("body or site of the kinematic model", name, [*bodies, *sites]))


def find_model(spec: KinematicsSpec, robot_path: Path | None) -> Path:
    """Finds the model file: beside the robot file, where the path says, or among the models that ship with ``sim``.

    Raises:
        CalibrationError: It is in none of these places.
    """
    name = Path(spec.file).expanduser()
    tried = [name] if name.is_absolute() else []
    if robot_path is not None:
        tried.append(robot_path.parent / name)
    tried.append(name)
    package = importlib.util.find_spec("sim")
    if package is not None and package.origin is not None:
        tried.append(Path(package.origin).parent / "assets" / name.name)
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise CalibrationError(
            f"the kinematic model '{spec.file}' is not there; looked at {', '.join(map(str, tried))}. Give the path of "
            "the arm's MJCF or URDF in the robot file's section 'kinematics', relative to the robot file."
        )
    return found


def open_kinematics(robot: RobotSpec, robot_path: Path | None = None) -> ForwardKinematics:
    """Opens the kinematics of a robot.

    Args:
        robot: The robot; its section ``kinematics`` names the file.
        robot_path: Where the robot file lies.

    Raises:
        CalibrationError: The robot names no model, the file is missing or unreadable, or it lacks a joint.
    """
    if robot.kinematics is None:
        raise CalibrationError(
            f"robot '{robot.name}' does not say where its kinematic model is. Add to the robot file, for example:\n"
            "kinematics: {file: my_arm.urdf, tool: gripper_link}"
        )
    path = find_model(robot.kinematics, robot_path)
    return ForwardKinematics(
        load_model(path),
        [joint.name for joint in robot.joints],
        base=robot.kinematics.base,
        tool=robot.kinematics.tool,
    )
