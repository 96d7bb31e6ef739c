"""``engines/engines.json``: all that must be true of built engines before TensorRT sees one byte of them.

A plan is code for one GPU, made by one TensorRT version from one bundle. It is built on the machine that runs it and
never shipped; whether it still fits is decided here by hashes, versions and the device's name, because deserialising is
too late: it runs what the file says.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy.cuda import Device
from policy.errors import PlanError
from wam.errors import BundleError
from wam.manifest import Manifest
from wam.strict_json import checked_fields, checked_mapping, parse_json

__all__ = ["ENGINE_FOLDER", "REBUILD", "Engine", "EngineManifest", "bundle_sha256", "has_engines", "read_engines"]

FORMAT_VERSION = 1  # of engines.json; any other is built again
ENGINE_FOLDER = "engines"  # inside the bundle
MANIFEST_NAME = "engines.json"
REBUILD = "build the engines again on this machine: wam engine BUNDLE --overwrite."


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One built plan."""

    file: str  # inside the engine folder
    sha256: str  # of the plan
    onnx_sha256: str  # of the graph it was built from
    counts: Mapping[str, int]  # what became of the graph, as ``policy.tensorrt_layers.count_layers`` gives it


@dataclass(frozen=True, kw_only=True)
class EngineManifest:
    """What a folder of engines was built from, by and for."""

    format_version: int = FORMAT_VERSION
    bundle_sha256: str  # of all files of the bundle, weights beside the graphs included
    runtime: str  # "tensorrt" or "tensorrt_rtx"
    runtime_version: str  # its full version; a plan runs on no other
    device: str  # name of the GPU
    compute_capability: str  # "8.7"
    driver: str  # newest CUDA version of the driver it was built under
    flags: Mapping[str, Any]  # options of the builder
    engines: Mapping[str, Engine]  # name of the graph -> its engine

    @classmethod
    def from_dict(cls, data: Any, *, source: str) -> "EngineManifest":
        """Builds it from JSON data.

        Raises:
            PlanError: A field is unknown, missing or of the wrong type, or the format is another.
        """
        version = data.get("format_version") if isinstance(data, Mapping) else None
        if version != FORMAT_VERSION:
            raise PlanError(f"{source} has format {version!r} but this software reads {FORMAT_VERSION}: {REBUILD}")
        try:
            fields = checked_fields(cls, data, source)
            fields["flags"] = checked_mapping(fields, "flags", source)
            engines = checked_mapping(fields, "engines", source)
            fields["engines"] = {name: _engine(engine, f"{source}: {name}") for name, engine in engines.items()}
        except BundleError as error:
            raise PlanError(f"{error} To put it right, {REBUILD}") from error
        return cls(**fields)

    def write(self, folder: Path) -> None:
        """Writes ``engines.json`` into a folder."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        data |= {"flags": dict(self.flags), "engines": {k: dataclasses.asdict(v) for k, v in self.engines.items()}}
        (folder / MANIFEST_NAME).write_text(json.dumps(data, indent=2) + "\n")

    def check(self, manifest: Manifest, *, runtime: str, runtime_version: str, device: Device) -> None:
        """Compares what the engines were built for with this bundle and this machine.

        Raises:
            PlanError: They differ, or an engine is missing.
        """
        if (self.runtime, self.runtime_version) != (runtime, runtime_version):
            raise PlanError(
                f"the engines were built by {self.runtime} {self.runtime_version} but this machine has {runtime} "
                f"{runtime_version}, which cannot run them: {REBUILD}"
            )
        if (self.device, self.compute_capability) != (device.name, device.compute_capability):
            raise PlanError(
                f"the engines were built for {self.device} (compute capability {self.compute_capability}) but this GPU "
                f"is {device.name} ({device.compute_capability}): {REBUILD}"
            )
        if _version(device.driver) < _version(self.driver):
            raise PlanError(
                f"the engines were built under a driver for CUDA {self.driver} but this one stops at {device.driver}: "
                f"update the driver, or {REBUILD}"
            )
        if set(self.engines) != set(manifest.graphs):
            raise PlanError(
                f"there are engines for {sorted(self.engines)} but the bundle has graphs {sorted(manifest.graphs)}: "
                f"{REBUILD}"
            )
        changed = [name for name, graph in manifest.graphs.items() if manifest.files[graph.file] != self._onnx(name)]
        if changed or self.bundle_sha256 != bundle_sha256(manifest):
            raise PlanError(
                f"the engines were built from another bundle (different: {', '.join(changed) or 'weights'}): {REBUILD}"
            )

    def _onnx(self, name: str) -> str:
        return self.engines[name].onnx_sha256


def has_engines(bundle: Path) -> bool:
    """Whether engines were ever built for a bundle."""
    return (bundle / ENGINE_FOLDER / MANIFEST_NAME).is_file()


def read_engines(bundle: Path) -> EngineManifest:
    """Reads ``engines.json`` of a bundle.

    Raises:
        PlanError: It is missing or cannot be read.
    """
    path = bundle / ENGINE_FOLDER / MANIFEST_NAME
    if not path.is_file():
        raise PlanError(f"{bundle} has no engines for TensorRT: build them on this machine with wam engine {bundle}")
    try:
        data = parse_json(path.read_text())
    except ValueError as error:  # also JSONDecodeError and UnicodeDecodeError
        raise PlanError(f"{path} is not valid JSON ({error}): {REBUILD}") from error
    return EngineManifest.from_dict(data, source=str(path))


def bundle_sha256(manifest: Manifest) -> str:
    """Returns one hash over the names and hashes of all files of a bundle."""
    return hashlib.sha256(json.dumps(dict(manifest.files), sort_keys=True).encode()).hexdigest()


def _engine(data: Any, where: str) -> Engine:
    fields = checked_fields(Engine, data, where)
    if Path(fields["file"]).name != fields["file"]:
        raise BundleError(f"{where}: file '{fields['file']}' lies outside the engine folder.")
    fields["counts"] = checked_mapping(fields, "counts", where)
    for name, value in fields["counts"].items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BundleError(f"{where}: counts.{name} is {value!r} but must be a whole number from 0.")
    return Engine(**fields)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
