"""The policy bundle's ``manifest.json``: all a robot must know about a bundle before it runs one number through it.

A bundle is a folder with the manifest, ONNX graphs and the weights as safetensors; nothing in it is executable
and nothing is pickled. The manifest is strict JSON: unknown, missing or contradicting fields, a newer format, a file
that changed since the export and a bundle of another robot are all refused before any runtime opens a file.

Torch-free: this is what runs on the robot. Shape legend: H chunk length, A action width, K cameras.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wam.config import ModelConfig
from wam.errors import BundleError, WamError, unknown_name
from wam.robot import RobotSpec
from wam.robot_identity import described_hash, differences
from wam.strict_json import checked_fields, checked_list, checked_mapping, checked_scalar, checked_texts, parse_json
from wam.transforms import Transforms

__all__ = [
    "FORMAT_VERSION",
    "GOLDEN_FILE",
    "GRAPH_NAMES",
    "INSTRUCTIONS",
    "INVERSE_GRAPH",
    "MANIFEST_NAME",
    "GraphSpec",
    "Manifest",
    "ParityReport",
    "TensorSpec",
    "file_sha256",
    "read_manifest",
]

FORMAT_VERSION = 2  # raised whenever an older reader would misunderstand a bundle
MANIFEST_NAME = "manifest.json"
GOLDEN_FILE = "golden.safetensors"  # inputs and what PyTorch made of them; absent where the model was too large to run
GRAPH_NAMES = ("prompt", "context", "levels", "denoise")  # once per task, observation, schedule of steps, and step
INVERSE_GRAPH = "inverse"  # two observations -> the actions between; only of a model with an inverse-dynamics head
INSTRUCTIONS = "instructions"  # of a checkpoint's description and of the manifest: what the policy was trained on
MODEL_DTYPES = ("float32", "float16", "bfloat16")  # of the large matrix products
DTYPES = (*MODEL_DTYPES, "uint8", "int64")  # of a graph's inputs and outputs
EXPORT_FIX = "export it again with wam export."
COPY_FIX = f"copy the whole bundle again, or {EXPORT_FIX}"


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One static input or output of a graph."""

    name: str  # as in the ONNX graph
    shape: tuple[int, ...]  # static, batch 1 included
    dtype: str  # one of DTYPES; what a host gives and takes is never of half precision


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """One exported graph."""

    file: str  # path inside the bundle
    inputs: tuple[TensorSpec, ...]  # in call order
    outputs: tuple[TensorSpec, ...]  # in return order


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """How far ONNX Runtime was from the reference when the bundle was exported.

    Differences are the largest absolute ones, relative to the largest value of a tensor where that is above 1.
    """

    reference: str  # what the graphs were compared with
    runtime: str  # what ran the graphs
    graph_dtype: str  # type of the graphs that ran: float32 for a bfloat16 bundle, which no CPU runtime executes
    layers: str  # how much of the model was compared: "all", or which layers of one that does not fit in memory
    samples: int  # random inputs per comparison
    tolerance: float  # limit above which the export refuses
    graphs: Mapping[str, float]  # graph name -> difference over all its outputs
    chunk: Mapping[str, float]  # number of denoising steps -> difference of the normalised action chunk


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a bundle but its graphs and weights."""

    format_version: int = FORMAT_VERSION  # of this file; newer ones are refused
    robot: RobotSpec  # the robot it was trained for
    robot_fingerprint: str  # its fingerprint, recomputed when the manifest is read
    model: ModelConfig  # geometry, for the torch backend
    transforms: Transforms  # images, proprio and actions between robot and model
    cameras: tuple[str, ...]  # (K,) order in which the model stacks images
    chunk_length: int  # H, actions per chunk
    control_dt: float  # time between two actions [s]
    n_steps: int  # denoising steps unless the caller asks for another number
    dtype: str  # one of MODEL_DTYPES
    threads: int | None  # CPU threads the bundle asks for; None leaves it to the machine
    graphs: Mapping[str, GraphSpec]  # by name: GRAPH_NAMES, and INVERSE_GRAPH or not
    weights: str | None  # safetensors file, which the graphs read too; None where they hold their own, quantised
    files: Mapping[str, str]  # path inside the bundle -> sha256, of every graph and weight file
    checkpoint: Mapping[str, Any]  # where it came from: path, sha256 of its weights, step, instructions of the training
    versions: Mapping[str, str]  # packages that made the bundle
    parity: ParityReport  # ONNX Runtime against the reference at export time
    quantisation: Mapping[str, Any]  # scheme, what chose and calibrated it, its accuracy gate; empty when there is none

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON data, the inverse of ``from_dict``."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain |= {name: plain[name].to_dict() for name in ("robot", "model", "transforms")}
        plain["graphs"] = {name: dataclasses.asdict(graph) for name, graph in self.graphs.items()}
        plain["parity"] = dataclasses.asdict(self.parity)
        return json.loads(json.dumps(plain, allow_nan=False))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "manifest") -> "Manifest":
        """Builds and checks a manifest from JSON data.

        Args:
            data: Fields as in ``manifest.json``.
            source: Where the data came from, for error messages.

        Raises:
            BundleError: The format is newer, or a field is unknown, missing, of the wrong type or contradicts another.
        """
        _check_format(data, source)
        fields = checked_fields(cls, data, source)
        try:
            described = checked_mapping(fields, "robot", source)
            fields["robot"] = RobotSpec.from_dict(described, source="robot")
            fields["model"] = ModelConfig.from_dict(checked_mapping(fields, "model", source))
            fields["transforms"] = Transforms.from_dict(checked_mapping(fields, "transforms", source))
        except (WamError, TypeError, ValueError) as error:
            raise BundleError(f"{source}: {error}") from error
        if fields["robot_fingerprint"] == described_hash(described):  # of an older export
            fields["robot_fingerprint"] = fields["robot"].fingerprint()
        graphs = checked_mapping(fields, "graphs", source)
        fields["graphs"] = {name: _graph(graph, f"{source}: graphs.{name}") for name, graph in graphs.items()}
        fields["parity"] = _parity(checked_mapping(fields, "parity", source), f"{source}: parity")
        fields["files"] = checked_texts(checked_mapping(fields, "files", source), f"{source}: files")
        fields["versions"] = checked_texts(checked_mapping(fields, "versions", source), f"{source}: versions")
        for name in ("checkpoint", "quantisation"):
            fields[name] = checked_mapping(fields, name, source)
        told = fields["checkpoint"].get(INSTRUCTIONS, [])
        checked_scalar(tuple[str, ...], told, f"{source}: checkpoint.{INSTRUCTIONS}")
        for name, kind in (("weights", str), ("threads", int)):
            if fields[name] is not None:
                checked_scalar(kind, fields[name], f"{source}: {name}")
        fields["cameras"] = tuple(fields["cameras"])
        manifest = cls(**fields)
        _check(manifest, source)
        return manifest

    @property
    def instructions(self) -> tuple[str, ...] | None:
        """What the policy was trained on; None where the bundle does not tell: an older one, or random weights."""
        told = self.checkpoint.get(INSTRUCTIONS)
        return None if told is None else tuple(told)

    @property
    def has_inverse(self) -> bool:
        """Whether the bundle can name the actions between two observations."""
        return INVERSE_GRAPH in self.graphs

    def write(self, folder: Path) -> Path:
        """Writes ``manifest.json`` into a bundle folder and returns its path."""
        path = folder / MANIFEST_NAME
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")
        return path

    def check_files(self, folder: Path) -> None:
        """Compares every file with its sha256.

        Raises:
            BundleError: A file is missing or is not the one that was exported.
        """
        for name, expected in self.files.items():
            path = folder / name
            if not path.is_file():
                raise BundleError(f"bundle {folder} lacks {name}, which its manifest lists: {COPY_FIX}")
            found = file_sha256(path)
            if found != expected:
                raise BundleError(
                    f"bundle {folder}: {name} has sha256 {found[:12]}… but the manifest says {expected[:12]}…: it was "
                    f"damaged or changed after the export and is not run; {COPY_FIX}"
                )

    def check_robot(self, robot: RobotSpec) -> None:
        """Compares the robot the bundle was made for with the one it is to run on.

        Raises:
            BundleError: They differ in what the policy's numbers mean; limits, safety, topics and frames may differ.
        """
        if robot.fingerprint() == self.robot_fingerprint:
            return
        different = differences(self.robot.to_dict(), robot.to_dict())
        raise BundleError(
            f"the bundle was made for robot '{self.robot.name}' ({self.robot_fingerprint[:12]}…) but is to run on "
            f"'{robot.name}' ({robot.fingerprint()[:12]}…); they differ in {', '.join(different)}: "
            "its numbers and pictures would not mean the same. Give the robot file it was trained for (limits, safety "
            "and topics in it may be changed), or train for this one."
        )


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a bundle folder; files and robot are checked by ``check_files`` and ``check_robot``.

    Raises:
        BundleError: There is no bundle, or its manifest is refused.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise BundleError(f"{folder} is not a policy bundle, it has no {MANIFEST_NAME}: make one with wam export.")
    try:
        data = parse_json(path.read_text())
    except ValueError as error:  # also JSONDecodeError and UnicodeDecodeError
        raise BundleError(f"{path} is not valid JSON: {error}; {COPY_FIX}") from error
    if not isinstance(data, Mapping):
        raise BundleError(f"{path} must be a JSON object but is {type(data).__name__}: {EXPORT_FIX}")
    return Manifest.from_dict(data, source=str(path))


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_format(data: Mapping[str, Any], source: str) -> None:
    version = data.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise BundleError(f"{source}: format_version is {version!r} but must be a whole number from 1: {EXPORT_FIX}")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{source}: the bundle has format {version} but this software reads up to {FORMAT_VERSION}: "
            "update world_action_model on this machine, or export the bundle with this version."
        )
    if version < FORMAT_VERSION:
        raise BundleError(
            f"{source}: the bundle has format {version} but this software reads format {FORMAT_VERSION}, whose graphs "
            "take other inputs: export its checkpoint again with wam export."
        )


def _graph(data: Any, where: str) -> GraphSpec:
    fields = checked_fields(GraphSpec, data, where)
    inputs, outputs = (
        tuple(_tensor(item, f"{where}.{side}") for item in checked_list(fields, side, where))
        for side in ("inputs", "outputs")
    )
    return GraphSpec(file=fields["file"], inputs=inputs, outputs=outputs)


def _tensor(data: Any, where: str) -> TensorSpec:
    fields = checked_fields(TensorSpec, data, where)
    if fields["dtype"] not in DTYPES:
        raise BundleError(f"{where}: " + unknown_name("dtype", fields["dtype"], DTYPES))
    shape = tuple(checked_list(fields, "shape", where))
    for size in shape:
        checked_scalar(int, size, f"{where}: shape of '{fields['name']}'")
    return TensorSpec(name=fields["name"], shape=shape, dtype=fields["dtype"])


def _parity(data: Any, where: str) -> ParityReport:
    fields = checked_fields(ParityReport, data, where)
    for name in ("graphs", "chunk"):
        fields[name] = checked_mapping(fields, name, where)
        for key, value in fields[name].items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise BundleError(f"{where}: {name}.{key} is {value!r} but must be a difference, a number from 0.")
            fields[name][key] = float(value)
    return ParityReport(**fields)


def _check(manifest: Manifest, source: str) -> None:
    """Refuses fields that contradict one another."""
    robot, model = manifest.robot, manifest.model
    if manifest.robot_fingerprint != robot.fingerprint():
        raise BundleError(
            f"{source}: robot_fingerprint {manifest.robot_fingerprint[:12]}… is not that of the robot it holds "
            f"({robot.fingerprint()[:12]}…): the manifest was edited; {EXPORT_FIX}"
        )
    pairs = {
        "cameras": (manifest.cameras, "robot.cameras", robot.camera_names),
        "control_dt": (manifest.control_dt, "1 / robot.control_rate_hz", robot.control_dt),
        "chunk_length": (manifest.chunk_length, "model.chunk_length", model.chunk_length),
        "model.action_dim": (model.action_dim, "the robot's action width", robot.action_dim),
        "model.n_cameras": (model.n_cameras, "the robot's number of cameras", len(robot.cameras)),
        "transforms.image_size_px": (manifest.transforms.image_size_px, "model.image_size_px", model.image_size_px),
        "transforms.image_fit": (
            [manifest.transforms.fit(name) for name in robot.camera_names],
            "the cameras' fit in robot",
            [camera.fit for camera in robot.cameras],
        ),
        "transforms.action width": (len(manifest.transforms.action.offset), "the robot's width", robot.action_dim),
    }
    for name, (value, other, expected) in pairs.items():
        if value != expected:
            raise BundleError(f"{source}: {name} is {value} but {other} is {expected}: they must agree; {EXPORT_FIX}")
    if set(manifest.graphs) - {INVERSE_GRAPH} != set(GRAPH_NAMES):
        raise BundleError(
            f"{source}: the bundle has graphs {sorted(manifest.graphs)} but needs exactly {', '.join(GRAPH_NAMES)}, "
            f"and may have {INVERSE_GRAPH}: {EXPORT_FIX}"
        )
    if INVERSE_GRAPH in manifest.graphs and not model.inverse_head:
        raise BundleError(
            f"{source}: the bundle has a graph {INVERSE_GRAPH} but its model has no inverse-dynamics head "
            f"(model.inverse_head is 0): {EXPORT_FIX}"
        )
    for tensor in manifest.graphs["context"].inputs:
        instants = tensor.shape[0] if len(tensor.shape) > 4 else 1  # (I, K, height, width, 3)
        if tensor.name == "images" and instants != model.n_instants:
            raise BundleError(
                f"{source}: graph context takes the images of {instants} instant(s) but the model looks back on "
                f"{model.n_instants} (n_obs_steps, obs_lead): they must agree; {EXPORT_FIX}"
            )
    if manifest.dtype not in MODEL_DTYPES:
        raise BundleError(f"{source}: " + unknown_name("dtype", manifest.dtype, MODEL_DTYPES))
    weights = [manifest.weights] if manifest.weights else []
    for name in (*(graph.file for graph in manifest.graphs.values()), *weights):
        if name not in manifest.files:
            raise BundleError(f"{source}: {name} has no sha256 under files, so it cannot be checked: {EXPORT_FIX}")
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BundleError(f"{source}: files lists '{name}', which lies outside the bundle: it is refused.")
