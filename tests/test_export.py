"""Export: checkpoint → bundle, its parity with the model, and what is left on disk when it fails."""

import dataclasses
import itertools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import wam.parity
import wam.weight_file
from policy.errors import BackendError
from policy.load import load_policy
from policy.onnx_backend import OnnxBackend, default_threads
from wam.checkpoint import describe_checkpoint
from wam.errors import BundleError, CheckpointError, ConfigError
from wam.export import export_bundle, main
from wam.manifest import GOLDEN_FILE, GRAPH_NAMES, MANIFEST_NAME, read_manifest
from wam.onnx_trace import OPSET
from wam.parity import TOLERANCES, check_parity
from wam.robot import load_robot
from wam.spec import Observation
from wam.untrained import save_untrained_checkpoint

ROBOT = load_robot("sim6")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_untrained_checkpoint(tmp_path_factory.mktemp("run"), ROBOT, preset_name="micro")


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "micro"
    export_bundle(checkpoint, folder, n_steps=4)
    return folder


@pytest.fixture(scope="module")
def policies(bundle):
    return {name: load_policy(bundle, ROBOT, backend=name, threads=1) for name in ("onnx", "torch")}


def make_observation(seed: int, task: str = "lift the red cube") -> Observation:
    rng = np.random.default_rng(seed)
    images = {
        camera.name: rng.integers(0, 256, (camera.height_px, camera.width_px, 3), dtype=np.uint8)
        for camera in ROBOT.cameras
    }
    proprio = rng.uniform(ROBOT.lower, ROBOT.upper).astype(np.float32)
    return Observation(images=images, proprio=proprio, task=task, stamp=0.1 * seed)


def test_bundle_holds_exactly_what_the_manifest_lists(bundle):
    manifest = read_manifest(bundle)
    assert {path.name for path in bundle.iterdir()} == {*manifest.files, MANIFEST_NAME}
    assert {path.suffix for path in bundle.iterdir()} == {".onnx", ".safetensors", ".json"}  # nothing pickled
    manifest.check_files(bundle)
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in bundle.iterdir())  # the robot's user can read it


def test_parity_report_covers_graphs_and_chunks_and_is_within_tolerance(bundle):
    parity = read_manifest(bundle).parity
    assert set(parity.graphs) == set(GRAPH_NAMES)
    assert set(parity.chunk) == {"1", "4"}
    assert max(*parity.graphs.values(), *parity.chunk.values()) <= TOLERANCES["float32"] == parity.tolerance
    assert max(parity.graphs.values()) > 0.0  # two runtimes never agree to the last bit: zero would mean no comparison


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_graphs_are_static_standard_and_without_masks(bundle, name):
    graph = onnx.load(bundle / f"{name}.onnx")
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]
    operators = {node.op_type for node in graph.graph.node}
    assert operators.isdisjoint({"Where", "IsNaN", "Shape", "If", "Loop", "Expand"})
    for tensor in (*graph.graph.input, *graph.graph.output):
        assert all(size.dim_value > 0 for size in tensor.type.tensor_type.shape.dim)
    assert not any(node.metadata_props for node in graph.graph.node)


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_nodes_carry_the_line_that_made_them_and_the_weight_they_use(bundle, name, repository):
    graph = onnx.load(bundle / f"{name}.onnx", load_external_data=False).graph
    for node in graph.node:
        source = re.fullmatch(r"(wam/\w+\.py):(\d+) in \w+", node.doc_string)
        assert source is not None, (node.name, node.doc_string)
        assert int(source[2]) <= len((repository / source[1]).read_text().splitlines())
    products = [node for node in graph.node if node.op_type == "Gemm"]
    assert all(node.name == f"{node.input[1].split('.weight')[0]}/Gemm" for node in products)
    assert len({node.name for node in graph.node}) == len(graph.node)


def test_graphs_read_their_weights_from_the_one_weights_file(bundle):
    manifest = read_manifest(bundle)
    weights = load_file(bundle / manifest.weights)
    seen = set()
    for name in GRAPH_NAMES:
        graph = onnx.load(bundle / f"{name}.onnx", load_external_data=False)
        assert (bundle / f"{name}.onnx").stat().st_size < 200_000
        external = [t.name for t in graph.graph.initializer if t.data_location == TensorProto.EXTERNAL]
        loaded = {t.name: numpy_helper.to_array(t) for t in onnx.load(bundle / f"{name}.onnx").graph.initializer}
        for tensor in set(external) & set(weights):
            np.testing.assert_array_equal(loaded[tensor], weights[tensor].numpy(), tensor)
        seen |= set(external)
    blocks = {key for key in weights if ".blocks." in key and key.endswith("weight")}
    # Of the last video block only keys and values are used: what comes behind its attention is in no graph.
    unused = {key for key in blocks - seen if not key.startswith("experts.video.blocks.1.")}
    assert {key.rsplit(".", 2)[-2] for key in unused} <= {"time", "modulation"}


def test_a_bundle_holds_its_weights_once(bundle):
    sizes = {path.name: path.stat().st_size for path in bundle.iterdir()}
    assert sum(sizes.values()) - sizes["model.safetensors"] < 400_000


def test_bundle_tells_nothing_about_the_machine_that_made_it(bundle, checkpoint, repository):
    for path in bundle.iterdir():
        content = path.read_bytes()
        assert str(repository).encode() not in content
        assert str(checkpoint.path.parent).encode() not in content


def test_export_is_reproducible(bundle, checkpoint, tmp_path):
    again = export_bundle(checkpoint, tmp_path / "again", n_steps=4)
    assert again.files == read_manifest(bundle).files


def test_golden_sample_is_what_every_backend_gives(bundle, policies):
    golden = load_file(bundle / GOLDEN_FILE)
    arrays = {name: tensor.numpy() for name, tensor in golden.items()}
    assert arrays["chunks"].shape == arrays["noise"].shape == (2, 16, 7)
    for policy in policies.values():
        backend = policy._backend
        backend.encode_context(arrays["images"], arrays["proprio"], backend.encode_prompt(arrays["instruction"]))
        for noise, chunk in zip(arrays["noise"], arrays["chunks"], strict=True):
            np.testing.assert_allclose(backend.denoise(noise, arrays["sigmas"].tolist()), chunk, atol=1e-5)
    assert np.abs(arrays["chunks"][0] - arrays["chunks"][1]).max() > 1e-3  # two draws, two chunks


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_single_steps_make_the_same_chunk_and_a_committed_prefix_stays(policies, name):
    backend = policies[name]._backend
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    proprio = rng.standard_normal(7).astype(np.float32)
    backend.encode_context(images, proprio, backend.encode_prompt(np.arange(12)))
    noise = rng.standard_normal((16, 7)).astype(np.float32)
    sigmas = [1.0, 0.5, 0.0]
    stepped = noise
    for sigma, sigma_next in itertools.pairwise(sigmas):
        levels = (np.full(16, level, dtype=np.float32) for level in (sigma, sigma_next))
        stepped = backend.denoise_step(stepped, *levels)
    np.testing.assert_allclose(stepped, backend.denoise(noise, sigmas), atol=1e-5)
    sigma = np.where(np.arange(16) < 4, 0.0, 0.8).astype(np.float32)
    moved = backend.denoise_step(noise, sigma, 0.5 * sigma)
    np.testing.assert_array_equal(moved[:4], noise[:4])
    assert np.abs(moved[4:] - noise[4:]).max() > 1e-3


@pytest.mark.parametrize("n_steps", [1, 4, 10])
def test_backends_agree_on_whole_chunks(bundle, n_steps):
    policies = [load_policy(bundle, ROBOT, backend=name, n_steps=n_steps, threads=1) for name in ("onnx", "torch")]
    for seed, task in enumerate(("lift the red cube", "push the blue cube", "lift the red cube")):
        chunks = [policy.infer(make_observation(seed, task), noise_seed=seed).actions for policy in policies]
        np.testing.assert_allclose(*chunks, atol=1e-5)


def test_every_input_matters(policies):
    base = make_observation(0)
    reference = policies["onnx"].infer(base, noise_seed=0).actions
    dark = {name: image // 2 for name, image in base.images.items()}
    changed = {
        "images": dataclasses.replace(base, images=dark),
        "proprio": dataclasses.replace(base, proprio=base.proprio * 0.5),
        "task": dataclasses.replace(base, task="push the blue cube"),
    }
    for name, observation in changed.items():
        moved = np.abs(policies["onnx"].infer(observation, noise_seed=0).actions - reference).max()
        assert moved > 1e-4, name
    np.testing.assert_array_equal(policies["onnx"].infer(base, noise_seed=0).actions, reference)  # and nothing sticks


def test_chunks_do_not_share_memory_with_the_backend(policies):
    for policy in policies.values():
        first = policy.infer(make_observation(1), noise_seed=1).actions
        before = first.copy()
        policy.infer(make_observation(2), noise_seed=2)
        np.testing.assert_array_equal(first, before)


def test_both_policies_imagine_the_same_frame(policies):
    frames = [policy.imagine(make_observation(3), noise_seed=3) for policy in policies.values()]
    height, width = policies["onnx"].manifest.model.image_size_px
    for camera in ROBOT.camera_names:
        assert frames[0][camera].shape == (height, width, 3)
        np.testing.assert_array_equal(frames[0][camera], frames[1][camera])


def test_robot_needs_no_torch(bundle, repository, monkeypatch):
    monkeypatch.chdir(repository)
    code = f"""
import sys
import numpy as np
for name in ("torch", "lerobot", "mujoco", "onnx", "safetensors", "jaxtyping"):
    sys.modules[name] = None  # importing it raises ImportError
from policy.load import load_policy
from wam.robot import load_robot
from wam.spec import Observation
robot = load_robot("sim6")
policy = load_policy({str(bundle)!r}, robot)
images = {{c.name: np.zeros((c.height_px, c.width_px, 3), np.uint8) for c in robot.cameras}}
observation = Observation(images=images, proprio=np.zeros(7, np.float32), task="lift", stamp=0.0)
print(policy.backend_name, policy.infer(observation).actions.shape)
try:
    policy.imagine(observation)
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "onnx (16, 7)\n" in done.stdout, done.stderr
    assert "imagined frames need torch" in done.stdout


def test_default_threads_are_one_for_small_graphs():
    assert default_threads(3e6) == 1
    assert default_threads(5e8) >= 1


def test_a_device_that_is_not_there_is_refused(bundle):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendError, match="this ONNX Runtime has only .*CPUExecutionProvider"):
        load_policy(bundle, ROBOT, backend="onnx", device="cuda")


def test_a_graph_that_is_not_the_manifests_is_refused(bundle):
    manifest = read_manifest(bundle)
    prompt = manifest.graphs["prompt"]
    longer = dataclasses.replace(prompt.inputs[0], shape=(99,))
    graphs = {**manifest.graphs, "prompt": dataclasses.replace(prompt, inputs=(longer,))}
    with pytest.raises(BundleError, match=r"prompt\.onnx has inputs .*\(12,\).* but the manifest says .*\(99,\)"):
        OnnxBackend(bundle, dataclasses.replace(manifest, graphs=graphs), threads=1)


def test_graphs_that_differ_from_the_model_leave_nothing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(wam.parity.TOLERANCES, "float32", 1e-12)
    with pytest.raises(BundleError, match=r"do not compute what the model does: .*graph context .*above 1e-12"):
        export_bundle(checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def broken_copy(checkpoint, folder, change):
    """Copies a checkpoint with changed weights."""
    shutil.copytree(checkpoint.path, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return describe_checkpoint(folder)


@pytest.mark.parametrize(
    ("value", "dtype", "where"), [(float("nan"), "float32", "the weights"), (1e6, "float16", "torch.float16")]
)
def test_weights_that_are_not_finite_leave_nothing(checkpoint, tmp_path, value, dtype, where):
    name = "experts.action.blocks.0.qkv.weight"
    broken = broken_copy(checkpoint, tmp_path / "step_00000001", lambda weights: weights[name][0, 0].fill_(value))
    with pytest.raises(BundleError, match=f"weight {name} is not finite in {where}"):
        export_bundle(broken, tmp_path / "out" / "bundle", dtype=dtype)
    assert list((tmp_path / "out").iterdir()) == []


def test_weights_that_do_not_fit_their_configuration_leave_nothing(checkpoint, tmp_path):
    broken = broken_copy(checkpoint, tmp_path / "step_00000001", lambda weights: weights.pop("words.weight"))
    with pytest.raises(BundleError, match=r"do not fit the model's configuration: words\.weight is missing"):
        export_bundle(broken, tmp_path / "out" / "bundle")
    assert list((tmp_path / "out").iterdir()) == []


def test_check_parity_names_what_failed(bundle):
    parity = read_manifest(bundle).parity
    bad = dataclasses.replace(parity, chunk={"1": 0.0, "4": 2e-3})
    with pytest.raises(BundleError, match=r"chunk of 4 step\(s\) 2\.0e-03, above 1e-04"):
        check_parity(bad)
    with pytest.raises(BundleError, match="graph prompt nan"):
        check_parity(dataclasses.replace(parity, graphs={"prompt": float("nan")}))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O: no space left")])
def test_full_disk_leaves_nothing(checkpoint, tmp_path, monkeypatch, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(wam.weight_file.WeightWriter, "write", full)
    with pytest.raises(BundleError, match=r"cannot be written .*: free some disk space"):
        export_bundle(checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_parent_that_is_a_file_is_refused(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"):
        export_bundle(checkpoint, tmp_path / "file" / "bundle")


def test_existing_bundle_needs_overwrite(bundle, checkpoint, tmp_path):
    out = tmp_path / "bundle"
    export_bundle(checkpoint, out, n_steps=1)
    with pytest.raises(BundleError, match="already holds a bundle: add --overwrite to replace it"):
        export_bundle(checkpoint, out, n_steps=2)
    assert read_manifest(out).n_steps == 1
    export_bundle(checkpoint, out, n_steps=2, overwrite=True)
    assert read_manifest(out).n_steps == 2
    assert list(tmp_path.iterdir()) == [out]  # neither the old bundle nor a partial one is left


def test_failed_overwrite_keeps_the_old_bundle(checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "bundle"
    old = export_bundle(checkpoint, out, n_steps=1)
    monkeypatch.setitem(wam.parity.TOLERANCES, "float32", 1e-12)
    with pytest.raises(BundleError):
        export_bundle(checkpoint, out, n_steps=2, overwrite=True)
    assert read_manifest(out) == old
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_is_no_bundle_is_never_replaced(checkpoint, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="is not a policy bundle: it is left alone"):
        export_bundle(checkpoint, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_command_writes_a_bundle_and_says_where(checkpoint, tmp_path, capsys):
    out = tmp_path / "bundle"
    arguments = ["--checkpoint", str(checkpoint.path.parent / "last"), "--out", str(out), "--n-steps", "2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"bundle:  {out} (" in printed
    assert "2 steps" in printed
    assert "parity:" in printed
    assert json.loads((out / MANIFEST_NAME).read_text())["n_steps"] == 2


def test_command_refuses_what_cannot_be_exported(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        main(["--checkpoint", str(tmp_path / "nothing"), "--out", str(tmp_path / "bundle")])
    with pytest.raises(ConfigError, match="n_steps is 0"):
        main(["--checkpoint", str(tmp_path), "--out", str(tmp_path / "bundle"), "--n-steps", "0"])
    assert list(tmp_path.iterdir()) == []
