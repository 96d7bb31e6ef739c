"""The bundle manifest: round trip, and everything it must refuse."""

import contextlib
import copy
import dataclasses
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam.config import preset
from wam.errors import BundleError
from wam.manifest import (
    FORMAT_VERSION,
    GRAPH_NAMES,
    MANIFEST_NAME,
    GraphSpec,
    Manifest,
    ParityReport,
    TensorSpec,
    file_sha256,
    read_manifest,
)
from wam.normalise import Normaliser
from wam.robot import load_robot
from wam.transforms import Transforms

ROBOT = load_robot("sim6")


def make_manifest() -> Manifest:
    model = preset("micro", ROBOT)
    axes = Normaliser(offset=(0.1,) * ROBOT.action_dim, scale=(0.5,) * ROBOT.action_dim)
    tensor = TensorSpec(name="x", shape=(1, 3), dtype="float32")
    graphs = {name: GraphSpec(file=f"{name}.onnx", inputs=(tensor,), outputs=(tensor,)) for name in GRAPH_NAMES}
    contents = [*(graph.file for graph in graphs.values()), "model.safetensors"]
    return Manifest(
        robot=ROBOT,
        robot_fingerprint=ROBOT.fingerprint(),
        model=model,
        transforms=Transforms(image_size_px=model.image_size_px, proprio=axes, action=axes),
        cameras=ROBOT.camera_names,
        chunk_length=model.chunk_length,
        control_dt=ROBOT.control_dt,
        n_steps=4,
        dtype="float32",
        threads=None,
        graphs=graphs,
        weights="model.safetensors",
        files={name: hashlib.sha256(name.encode()).hexdigest() for name in contents},
        checkpoint={"step": 10, "sha256": "0" * 64},
        versions={"torch": "2.11"},
        parity=ParityReport(
            reference="torch",
            runtime="onnxruntime",
            graph_dtype="float32",
            layers="all",
            samples=4,
            tolerance=1e-4,
            graphs={"prompt": 0.0},
            chunk={"1": 1e-6},
        ),
        quantisation={},
    )


@pytest.fixture
def data() -> dict:
    return make_manifest().to_dict()


@pytest.fixture
def bundle(tmp_path):
    manifest = make_manifest()
    for name in manifest.files:
        (tmp_path / name).write_text(name)  # make_manifest hashed the names
    manifest.write(tmp_path)
    return tmp_path


def test_written_manifest_reads_back_equal(bundle):
    manifest = read_manifest(bundle)
    assert manifest == make_manifest()
    manifest.check_files(bundle)
    manifest.check_robot(ROBOT)


def test_to_dict_survives_json(data):
    assert Manifest.from_dict(json.loads(json.dumps(data))) == make_manifest()


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"wam")
    assert file_sha256(tmp_path / "f") == hashlib.sha256(b"wam").hexdigest()


def edited(data: dict, path: str, value: object) -> dict:
    """Returns the data with one value replaced; ``path`` is dotted."""
    changed = copy.deepcopy(data)
    *parents, last = path.split(".")
    place = changed
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format_version", FORMAT_VERSION + 1, f"has format {FORMAT_VERSION + 1} but this software reads up to"),
        ("format_version", FORMAT_VERSION - 1, "export its checkpoint again with wam export"),
        ("format_version", "1", "format_version is '1' but must be a whole number"),
        ("n_step", 4, "unknown field 'n_step' (did you mean 'n_steps'?)"),
        ("n_steps", 0, "n_steps is 0 but must be a positive whole number"),
        ("n_steps", True, "n_steps is True but must be a positive whole number"),
        ("control_dt", "0.1", "control_dt is '0.1' but must be a positive finite number"),
        ("control_dt", 0.05, "control_dt is 0.05 but 1 / robot.control_rate_hz is 0.1"),
        ("chunk_length", 8, "chunk_length is 8 but model.chunk_length is 16"),
        ("cameras", ["wrist", "front"], "cameras is ('wrist', 'front') but robot.cameras is ('front', 'wrist')"),
        ("cameras", "front", "cameras is 'front' but must be a list of names"),
        (
            "dtype",
            "float64",
            "unknown dtype 'float64' (did you mean 'float16'?); valid names: bfloat16, float16, float32",
        ),
        ("threads", 0, "threads is 0 but must be a positive whole number"),
        ("quantisation", None, "quantisation is None but must be an object"),
        ("weights", "", "weights is '' but must be a non-empty string"),
        ("weights", "other.safetensors", "other.safetensors has no sha256 under files"),
        ("robot.joints", [], "a robot needs at least one joint"),
        ("robot.speed", 1.0, "unknown field 'speed'"),
        ("robot.name", "sim7", "is not that of the robot it holds"),
        ("model.num_layer", 4, "unknown model option 'num_layer' (did you mean 'num_layers'?)"),
        ("model.action_dim", 6, "model.action_dim is 6 but the robot's action width is 7"),
        ("transforms.extra", 1, "transforms have fields"),
        ("transforms", [], "transforms is [] but must be an object of fields"),
        (
            "graphs.refine",
            {"file": "r.onnx", "inputs": [], "outputs": []},
            "but needs exactly prompt, context, levels, denoise",
        ),
        ("graphs.prompt.size", 3, "graphs.prompt: unknown field 'size'"),
        ("graphs.prompt.inputs.0", None, "graphs.prompt.inputs is None but must be an object"),
        ("graphs.prompt.inputs", 3, "graphs.prompt: inputs is 3 but must be a list"),
        ("files.../secret", "0" * 64, "files lists '../secret', which lies outside the bundle"),
        ("files./etc/passwd", "0" * 64, "files lists '/etc/passwd', which lies outside the bundle"),
        ("versions.torch", 2.11, "versions.torch is 2.11 but must be a non-empty string"),
        ("parity.chunk", {"4": "small"}, "parity: chunk.4 is 'small' but must be a difference"),
    ],
)
def test_edited_manifest_is_refused(data, path, value, message):
    if path.startswith("files."):
        changed = copy.deepcopy(data)
        changed["files"][path.removeprefix("files.")] = value
    elif path == "graphs.prompt.inputs.0":
        changed = edited(data, "graphs.prompt.inputs", [value])
    else:
        changed = edited(data, path, value)
    with pytest.raises(BundleError) as refusal:
        Manifest.from_dict(changed)
    assert message in str(refusal.value)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Manifest)])
def test_every_field_is_needed(data, name):
    del data[name]
    expected = "format_version is None" if name == "format_version" else f"field '{name}' is missing"
    with pytest.raises(BundleError, match=expected):
        Manifest.from_dict(data)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Returns the path of every value inside JSON data."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(*path, key) for key in keys] + [place for key in keys for place in places(value[key], (*path, key))]


JSON_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(allow_nan=False, allow_infinity=False),  # what JSON can hold
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just([0]),
)


@given(place=st.sampled_from(places(make_manifest().to_dict())), value=JSON_VALUES)
def test_any_single_damage_is_refused_or_harmless(place, value):
    changed = make_manifest().to_dict()
    inside = changed
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    with contextlib.suppress(BundleError):  # any other exception would be a traceback on a robot
        assert Manifest.from_dict(json.loads(json.dumps(changed))).to_dict().keys() == changed.keys()


def test_missing_graph_is_refused(data):
    del data["graphs"]["denoise"]
    with pytest.raises(BundleError, match=r"has graphs \['context', 'levels', 'prompt'\] but needs exactly"):
        Manifest.from_dict(data)


def test_unknown_dtype_lists_the_valid_ones(data):
    data["graphs"]["context"]["inputs"][0]["dtype"] = "double"
    with pytest.raises(BundleError, match=r"unknown dtype 'double'.*float32, int64, uint8"):
        Manifest.from_dict(data)


def test_tensor_without_static_shape_is_refused(data):
    data["graphs"]["context"]["inputs"][0]["shape"] = ["batch", 3]
    with pytest.raises(BundleError, match="shape of 'x' is 'batch' but must be a positive whole number"):
        Manifest.from_dict(data)


def test_folder_without_manifest_is_no_bundle(tmp_path):
    with pytest.raises(
        BundleError, match=r"is not a policy bundle, it has no manifest\.json: make one with wam export"
    ):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not valid JSON"), ('{"a": NaN}', "it holds NaN"), ('{"a": 1e999}', "it holds 1e999")],
)
def test_broken_json_is_refused(tmp_path, text, message):
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(BundleError, match=message):
        read_manifest(tmp_path)


def test_manifest_must_be_an_object(tmp_path):
    (tmp_path / MANIFEST_NAME).write_text("[]")
    with pytest.raises(BundleError, match="must be a JSON object but is list"):
        read_manifest(tmp_path)


def test_changed_file_is_refused(bundle):
    (bundle / "denoise.onnx").write_text("denoise.onnx with another weight")
    with pytest.raises(BundleError, match=r"denoise\.onnx has sha256 .* damaged or changed after the export"):
        read_manifest(bundle).check_files(bundle)


def test_missing_file_is_refused(bundle):
    (bundle / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"lacks model\.safetensors, which its manifest lists"):
        read_manifest(bundle).check_files(bundle)


def test_other_robot_is_refused_and_the_difference_named():
    other = dataclasses.replace(ROBOT, control_rate_hz=20.0, joints=ROBOT.joints[::-1])
    names = r"yaw, shoulder, elbow, forearm_roll, wrist_pitch, wrist_roll"
    with pytest.raises(
        BundleError, match=rf"differ in joints \({names} and wrist.*\), control_rate_hz \(10.0 and 20.0\)"
    ):
        make_manifest().check_robot(other)


def test_limits_safety_and_topics_of_the_robot_are_free():
    axes = tuple(dataclasses.replace(joint, max_velocity=0.5 * joint.max_velocity) for joint in ROBOT.joints)
    slow = dataclasses.replace(ROBOT, joints=axes, command_topic="/elsewhere")
    make_manifest().check_robot(dataclasses.replace(slow, safety=dataclasses.replace(slow.safety, guard_rate_hz=100.0)))


def test_a_bundle_of_an_older_export_opens_as_before(data, repository):
    """Its hash was one of the whole description, and its topics were absolute."""
    before = json.loads((repository / "tests/data/robot_of_an_older_export.json").read_text())
    manifest = Manifest.from_dict(data | before)
    assert manifest.robot.state_topic == "/joint_states"
    manifest.check_robot(ROBOT)
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    before["robot"]["joints"][0]["max_velocity"] = 9.0
    with pytest.raises(BundleError, match="is not that of the robot it holds .* the manifest was edited"):
        Manifest.from_dict(data | before)
