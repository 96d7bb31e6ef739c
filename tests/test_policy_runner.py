"""Policy on a twenty-line fake backend, and loading; no weights, no torch, no network."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from policy.errors import BackendError, PolicyError
from policy.load import load_policy
from policy.rtc import Continuation
from policy.runner import CACHED_PROMPTS, Policy
from wam.config import preset
from wam.errors import BundleError, ValueContractError
from wam.manifest import FORMAT_VERSION, GRAPH_NAMES, GraphSpec, Manifest, ParityReport, file_sha256
from wam.normalise import Normaliser
from wam.robot import load_robot
from wam.spec import Observation
from wam.text import token_ids
from wam.transforms import Transforms

ROBOT = load_robot("sim6")


class FakeBackend:
    """Adds the proprio to the noise; remembers what it was asked."""

    name, device, threads = "fake", "cpu", 1

    def __init__(self, add: float = 0.0) -> None:
        self.prompts: list[np.ndarray] = []
        self.add = add

    def encode_prompt(self, token_ids):
        self.prompts.append(token_ids)
        return tuple(token_ids)

    def encode_context(self, images, proprio, prompt):
        self.images, self.proprio, self.prompt = images, proprio, prompt

    def denoise(self, noise, sigmas):
        self.noise, self.sigmas = noise, sigmas
        return (0.0 * noise + self.proprio + self.add).astype(np.float32)


def make_manifest(*, action_space: str = "absolute", files: dict[str, str] | None = None) -> Manifest:
    model = preset("micro", ROBOT)
    axes = Normaliser(offset=(0.1,) * ROBOT.action_dim, scale=(0.5,) * ROBOT.action_dim)
    graphs = {name: GraphSpec(file=f"{name}.onnx", inputs=(), outputs=()) for name in GRAPH_NAMES}
    names = [*(graph.file for graph in graphs.values()), "model.safetensors"]
    return Manifest(
        robot=ROBOT,
        robot_fingerprint=ROBOT.fingerprint(),
        model=model,
        transforms=Transforms(
            image_size_px=model.image_size_px, proprio=axes, action=axes, action_space=action_space, gripper=True
        ),
        cameras=ROBOT.camera_names,
        chunk_length=model.chunk_length,
        control_dt=ROBOT.control_dt,
        n_steps=4,
        graphs=graphs,
        weights="model.safetensors",
        files=dict.fromkeys(names, "0" * 64) if files is None else files,
        checkpoint={},
        versions={},
        parity=ParityReport(
            reference="torch",
            runtime="fake",
            graph_dtype="float32",
            layers="all",
            samples=1,
            tolerance=1e-4,
            graphs={},
            chunk={},
        ),
        dtype="float32",
        threads=None,
        quantisation={},
    )


def make_observation(**changes) -> Observation:
    camera = ROBOT.cameras[0]
    images = {
        name: np.full((camera.height_px, camera.width_px, 3), 10 * i, dtype=np.uint8)
        for i, name in enumerate(ROBOT.camera_names)
    }
    proprio = np.linspace(0.0, 0.6, ROBOT.action_dim, dtype=np.float32)
    return Observation(**{"images": images, "proprio": proprio, "task": "lift the red cube", "stamp": 2.5} | changes)


def test_chunk_is_decoded_stamped_and_anchored():
    backend = FakeBackend()
    observation = make_observation()
    chunk = Policy(make_manifest(), backend).infer(observation)
    # normalised with the same statistics on the way in and out, the fake returns the proprio itself
    np.testing.assert_allclose(chunk.actions, np.tile(observation.proprio, (16, 1)), atol=1e-6)
    assert (chunk.stamp, chunk.control_dt) == (2.5, 0.1)
    np.testing.assert_array_equal(chunk.anchor, observation.proprio)
    assert backend.images.shape == (2, 32, 32, 3)
    assert [int(image.max()) for image in backend.images] == [0, 10]  # cameras in the robot's order


def test_relative_actions_are_decoded_against_the_observation_they_came_from():
    observation = make_observation()
    chunk = Policy(make_manifest(action_space="relative"), FakeBackend()).infer(observation)
    expected = 2 * observation.proprio
    expected[-1] = observation.proprio[-1]  # the gripper stays absolute
    np.testing.assert_allclose(chunk.actions[0], expected, atol=1e-6)


def test_anchor_does_not_follow_a_buffer_that_is_written_again():
    observation = make_observation()
    chunk = Policy(make_manifest(), FakeBackend()).infer(observation)
    before = chunk.anchor.copy()
    observation.proprio[:] = 1.0
    np.testing.assert_array_equal(chunk.anchor, before)


def test_prompt_is_encoded_once_per_task():
    backend = FakeBackend()
    policy = Policy(make_manifest(), backend)
    for task in ("lift", "push", "lift", "lift"):
        policy.infer(make_observation(task=task))
    assert len(backend.prompts) == 2
    assert backend.prompt == tuple(token_ids("lift", 12))
    policy.reset()
    policy.infer(make_observation(task="push"))
    assert len(backend.prompts) == 2


def test_prompt_cache_is_bounded():
    backend = FakeBackend()
    policy = Policy(make_manifest(), backend)
    for i in range(CACHED_PROMPTS + 1):
        policy.infer(make_observation(task=f"task {i}"))
    policy.infer(make_observation(task=f"task {CACHED_PROMPTS}"))  # still there
    assert len(backend.prompts) == CACHED_PROMPTS + 1
    policy.infer(make_observation(task="task 0"))  # was dropped
    assert len(backend.prompts) == CACHED_PROMPTS + 2


def test_noise_depends_on_the_seed_alone():
    backend = FakeBackend()
    policy = Policy(make_manifest(), backend)
    drawn = []
    for seed in (7, 8, 7):
        policy.infer(make_observation(), noise_seed=seed)
        drawn.append(backend.noise.copy())
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], drawn[1])
    assert drawn[0].dtype == np.float32


def test_without_a_seed_every_chunk_differs_and_an_episode_repeats():
    backend = FakeBackend()
    policy = Policy(make_manifest(), backend)
    episodes = []
    for _ in range(2):
        policy.reset()
        episodes.append([])
        for _ in range(2):
            policy.infer(make_observation())
            episodes[-1].append(backend.noise.copy())
    np.testing.assert_array_equal(episodes[0], episodes[1])
    assert not np.array_equal(episodes[0][0], episodes[0][1])


@pytest.mark.parametrize(("n_steps", "expected"), [(None, 5), (1, 2), (10, 11)])
def test_sigmas_run_from_one_to_zero(n_steps, expected):
    backend = FakeBackend()
    Policy(make_manifest(), backend, n_steps=n_steps).infer(make_observation())
    assert len(backend.sigmas) == expected
    assert (backend.sigmas[0], backend.sigmas[-1]) == (1.0, 0.0)
    assert all(high > low for high, low in zip(backend.sigmas, backend.sigmas[1:], strict=False))


def test_zero_steps_are_refused():
    with pytest.raises(PolicyError, match="n_steps is 0 but a chunk needs at least 1"):
        Policy(make_manifest(), FakeBackend(), n_steps=0)


def test_a_broken_observation_never_reaches_the_backend():
    backend = FakeBackend()
    with pytest.raises(ValueContractError, match="proprio is not finite for yaw"):
        Policy(make_manifest(), backend).infer(make_observation(proprio=np.full(7, np.nan, dtype=np.float32)))
    assert not hasattr(backend, "noise")


def test_a_chunk_that_is_not_finite_never_leaves():
    with pytest.raises(ValueContractError, match="action chunk holds nan at step 0"):
        Policy(make_manifest(), FakeBackend(add=float("nan"))).infer(make_observation())


def test_imagination_names_the_cameras():
    class FakeImaginer:
        def imagine(self, images, proprio, token_ids, *, n_steps, seed):
            return images + np.uint8(seed)

    policy = Policy(make_manifest(), FakeBackend(), imaginer=FakeImaginer)
    frames = policy.imagine(make_observation(), noise_seed=5)
    assert {name: (frame.shape, int(frame.max())) for name, frame in frames.items()} == {
        "front": ((32, 32, 3), 5),
        "wrist": ((32, 32, 3), 15),
    }


def test_a_policy_without_imaginer_says_so():
    with pytest.raises(PolicyError, match="this policy cannot imagine"):
        Policy(make_manifest(), FakeBackend()).imagine(make_observation())


def test_warm_up_leaves_no_trace_in_the_noise():
    backend = FakeBackend()
    policy = Policy(make_manifest(), backend)
    policy.infer(make_observation())
    first = backend.noise.copy()
    policy = Policy(make_manifest(), backend)
    policy.warm_up()
    policy.infer(make_observation())
    np.testing.assert_array_equal(backend.noise, first)


@pytest.fixture
def bundle(tmp_path):
    """A folder that passes every check but holds no real graphs."""
    for name in (*(f"{graph}.onnx" for graph in GRAPH_NAMES), "model.safetensors"):
        (tmp_path / name).write_bytes(b"not a graph")
    files = {path.name: file_sha256(path) for path in tmp_path.iterdir()}
    make_manifest(files=files).write(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "onx"},
            r"unknown backend 'onx' \(did you mean 'onnx'\?\); valid names: auto, onnx, tensorrt, torch, ",
        ),
        ({"threads": 0}, "threads is 0 but must be at least 1"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_read(tmp_path, options, message):
    with pytest.raises(BackendError, match=message):
        load_policy(tmp_path / "nowhere", ROBOT, **options)


def test_missing_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="is not a policy bundle"):
        load_policy(tmp_path, ROBOT)


def test_bundle_of_another_robot_is_refused(bundle):
    other = dataclasses.replace(ROBOT, joints=ROBOT.joints[::-1])
    with pytest.raises(BundleError, match="they differ in joints"):
        load_policy(bundle, other)


def test_changed_bundle_is_refused(bundle):
    (bundle / "context.onnx").write_bytes(b"another graph")
    with pytest.raises(BundleError, match=r"context\.onnx has sha256"):
        load_policy(bundle, ROBOT)


def test_newer_bundle_is_refused(bundle):
    dataclasses.replace(make_manifest(), format_version=FORMAT_VERSION + 1).write(bundle)
    with pytest.raises(BundleError, match="update world_action_model on this machine"):
        load_policy(bundle, ROBOT)


def test_a_file_that_is_no_graph_is_refused(bundle):
    with pytest.raises(BundleError, match=r"ONNX Runtime cannot load .*prompt\.onnx"):
        load_policy(bundle, ROBOT, backend="onnx")


def test_weights_that_are_none_are_refused(bundle):
    pytest.importorskip("torch")
    with pytest.raises(BundleError, match=r"model\.safetensors does not fit the manifest's model"):
        load_policy(bundle, ROBOT, backend="torch")


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run_blocked(code: str, *blocked: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter in which some libraries cannot be imported."""
    script = BLOCKER.format(blocked=set(blocked)) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)


def test_policy_imports_without_torch_lerobot_and_mujoco(repository, monkeypatch):
    monkeypatch.chdir(repository)
    modules = sorted(f"policy.{path.stem}" for path in (repository / "policy").glob("*.py") if path.stem != "__init__")
    code = f"import importlib\nfor name in {modules}: importlib.import_module(name)\nprint('imported', len({modules}))"
    heavy = ("torch", "lerobot", "mujoco", "onnxruntime", "onnx", "safetensors", "rclpy", "jaxtyping")
    done = run_blocked(code, *heavy)
    assert done.stdout == f"imported {len(modules)}\n", done.stderr
    assert len(modules) >= 7


@pytest.mark.parametrize(
    ("backend", "blocked", "message"),
    [
        ("auto", ("onnxruntime", "torch"), "no inference runtime is installed (onnxruntime, torch)"),
        ("onnx", ("onnxruntime",), "backend 'onnx' needs onnxruntime, which cannot be imported"),
        ("torch", ("torch",), "backend 'torch' and imagined frames need torch"),
    ],
)
def test_a_missing_runtime_is_named(bundle, repository, monkeypatch, backend, blocked, message):
    monkeypatch.chdir(repository)
    code = (
        "from policy.load import load_policy; from wam.robot import load_robot\n"
        f"load_policy({str(bundle)!r}, load_robot('sim6'), backend={backend!r})"
    )
    done = run_blocked(code, *blocked)
    assert message in done.stderr
    assert "BackendError" in done.stderr


class ContinuingBackend(FakeBackend):
    """Predicts its constant in one exact step from any level, and remembers the levels of every step."""

    def denoise_step(self, actions, sigma, sigma_next):
        self.levels = [*getattr(self, "levels", []), (sigma, sigma_next)]
        clean = self.proprio + self.add
        velocity = (actions - clean) / np.maximum(sigma, 1e-6)[:, None]
        return (actions + velocity * (sigma_next - sigma)[:, None]).astype(np.float32)


def trained_for_prefixes(longest: int = 3, **changes) -> Manifest:
    manifest = make_manifest(**changes)
    return dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, max_prefix=longest))


def playing(value: float, *, count: int = 12, **changes) -> Continuation:
    actions = np.full((count, ROBOT.action_dim), value, dtype=np.float32)
    return Continuation(**{"actions": actions, "delay": 2, "horizon": 5} | changes)


@pytest.mark.parametrize("action_space", ["absolute", "relative"])
def test_a_continued_chunk_begins_with_what_plays_meanwhile(action_space):
    policy = Policy(make_manifest(action_space=action_space), ContinuingBackend())
    observation = make_observation()
    free = policy.infer(observation, noise_seed=0)
    chunk = policy.infer(observation, noise_seed=0, continuation=playing(0.3))
    before, after = np.abs(free.actions - 0.3)[:2], np.abs(chunk.actions - 0.3)[:2]
    assert (after <= 0.2 * before + 1e-3).all()  # absolute targets, whatever the anchor is
    np.testing.assert_allclose(chunk.actions[5:], free.actions[5:], atol=1e-5)
    assert (chunk.stamp, chunk.control_dt) == (2.5, 0.1)


def test_a_hard_continuation_copies_as_much_as_the_model_was_trained_for():
    backend = ContinuingBackend()
    policy = Policy(trained_for_prefixes(3), backend)
    assert policy.max_prefix == 3
    chunk = policy.infer(make_observation(), continuation=playing(0.3, delay=6, horizon=6, hard=True))
    np.testing.assert_allclose(chunk.actions[:3], 0.3, atol=1e-6)
    np.testing.assert_allclose(chunk.actions[3:], np.tile(make_observation().proprio, (13, 1)), atol=1e-5)
    sigma, sigma_next = backend.levels[0]
    assert (sigma[:3] == 0).all()
    assert (sigma_next[:3] == 0).all()
    assert (sigma[3:] == 1).all()


def test_a_continuation_that_cannot_be_is_refused():
    policy = Policy(make_manifest(), ContinuingBackend())
    with pytest.raises(PolicyError, match="needs a model that was trained with clean prefixes"):
        policy.infer(make_observation(), continuation=playing(0.3, hard=True))
    narrow = Continuation(actions=np.zeros((4, 3), dtype=np.float32), delay=1, horizon=2)
    with pytest.raises(PolicyError, match="continuation has width 3 but the policy acts on 7 axes"):
        policy.infer(make_observation(), continuation=narrow)


def test_a_continuation_longer_than_a_chunk_counts_as_far_as_the_chunk():
    policy = Policy(make_manifest(), ContinuingBackend())
    chunk = policy.infer(make_observation(), continuation=playing(0.3, count=40, delay=16, horizon=20))
    np.testing.assert_allclose(chunk.actions, 0.3, atol=0.05)


def test_proprio_in_another_unit_is_refused_with_every_axis_named():
    degrees = np.array([0.1, -40.0, 90.0, 0.2, 0.3, 0.1, 55.0], dtype=np.float32)
    policy = Policy(make_manifest(), FakeBackend())
    with pytest.raises(ValueContractError, match=r"'shoulder' -40 \(range .*'elbow' 90 .*'gripper' 55 .*degrees"):
        policy.infer(make_observation(proprio=degrees))


def test_proprio_that_grazes_its_range_is_planned_from():
    proprio = np.array([axis.position[1] for axis in ROBOT.axes], dtype=np.float32) + np.float32(0.3)
    chunk = Policy(make_manifest(), FakeBackend()).infer(make_observation(proprio=proprio))
    np.testing.assert_array_equal(chunk.anchor, proprio)
