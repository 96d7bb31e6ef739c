"""From training to a closed loop with observations that look back: checkpoint, bundle, every backend, rollout."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from policy.load import load_policy
from policy.runner import Policy
from sim.arm_sim import ArmSim
from sim.evaluate import EvaluateConfig, evaluate
from sim.past import PastInstants
from sim.references import PolicyPlanner
from sim.rollout import LoopSettings, run_episode
from wam.checkpoint import load_checkpoint
from wam.errors import BundleError, ConfigError
from wam.export import export_bundle
from wam.history import Window
from wam.manifest import Manifest, read_manifest
from wam.robot import load_robot
from wam.spec import Observation
from wam.train import train
from wam.train_config import TrainConfig
from wam.training_data import prepare
from wam.untrained import save_untrained_checkpoint

ROBOT = load_robot("sim6")
CLOSE = {"rtol": 0, "atol": 2e-4}  # actions in radians, float32 through two runtimes


@pytest.fixture(scope="module", params=["whole", "causal"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights; causal ones with the lead that makes a stream exact."""
    folder = tmp_path_factory.mktemp(request.param)
    changes = {"obs_attention": request.param, "obs_lead": 1 if request.param == "causal" else 0}
    checkpoint = save_untrained_checkpoint(folder / "run", ROBOT, preset_name="micro", n_obs_steps=2, **changes)
    export_bundle(checkpoint, folder / "bundle", n_steps=2)
    return folder / "bundle"


def see(stamp: float, seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    images = {
        camera.name: rng.integers(0, 256, (camera.height_px, camera.width_px, 3), dtype=np.uint8)
        for camera in ROBOT.cameras
    }
    proprio = rng.uniform(ROBOT.lower, ROBOT.upper).astype(np.float32)
    return Observation(images=images, proprio=proprio, task="lift the red cube", stamp=stamp)


def with_past(stamps: list[float]) -> Observation:
    *past, now = [see(stamp, round(10 * stamp)) for stamp in stamps]
    return dataclasses.replace(now, history=tuple(past))


def test_the_manifest_says_how_far_the_model_looks_back(bundle: Path):
    manifest = read_manifest(bundle)
    shapes = {tensor.name: tensor.shape for tensor in manifest.graphs["context"].inputs}
    instants = manifest.model.n_instants
    assert shapes["images"] == (instants, 2, 32, 32, 3)
    assert shapes["proprio"] == (instants, 7)
    assert max([*manifest.parity.graphs.values(), *manifest.parity.chunk.values()]) <= manifest.parity.tolerance
    shortened = manifest.to_dict()
    shortened["model"] |= {"n_obs_steps": 5}
    with pytest.raises(BundleError, match="takes the images of . instant.s. but the model looks back on"):
        Manifest.from_dict(shortened)


def test_backends_agree_on_observations_with_a_past(bundle: Path):
    names = ["onnx", "torch"]
    if read_manifest(bundle).model.obs_attention == "causal":
        names.append("torch_streaming")
    stamps = [0.0, 0.4, 0.8]
    wanted = read_manifest(bundle).model.n_instants
    chunks = []
    for name in names:
        policy = load_policy(bundle, ROBOT, backend=name, threads=1)
        ends = [with_past(stamps[max(0, end - wanted) : end]) for end in (1, 2, 3)]
        chunks.append([policy.infer(seen, noise_seed=3).actions for seen in ends])
    for other in chunks[1:]:
        np.testing.assert_allclose(chunks[0], other, **CLOSE)
    assert np.abs(chunks[0][1] - policy.infer(see(0.4, 4), noise_seed=3).actions).max() > 1e-3  # the past matters


def test_the_policy_imagines_with_its_past(bundle: Path):
    policy = load_policy(bundle, ROBOT, backend="torch", threads=1)
    seen = with_past([0.0, 0.4])
    imagined = policy.imagine(seen)
    assert {name: image.shape for name, image in imagined.items()} == dict.fromkeys(ROBOT.camera_names, (32, 32, 3))
    alone = policy.imagine(dataclasses.replace(seen, history=()))
    assert any(not np.array_equal(imagined[name], alone[name]) for name in imagined)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streaming")
    changes = {"n_obs_steps": 3, "obs_attention": "causal", "obs_lead": 2, "obs_stride": 4}
    checkpoint = save_untrained_checkpoint(folder / "run", ROBOT, preset_name="micro", **changes)
    export_bundle(checkpoint, folder / "bundle", n_steps=1)
    return folder / "bundle"


def stream(policy: Policy, steps: range, every: int) -> tuple[list[np.ndarray], list[int]]:
    """Chunks and instants computed for each, of an episode observed at every control step and asked now and then."""
    from policy.history import ObservationHistory

    history, chunks, computed = ObservationHistory(policy.window), [], []
    policy.reset()
    for step in steps:
        seen = history.add(see(0.1 * step, step))
        if step % every == 0:
            before = getattr(policy._backend, "computed", 0)
            chunks.append(policy.infer(seen, noise_seed=0).actions)
            computed.append(getattr(policy._backend, "computed", 0) - before)
    return chunks, computed


@pytest.mark.parametrize(
    ("every", "costs"),
    [
        (4, [5, 1, 1, 1, 1, 1]),  # at the stride: one instant for each observation after the first
        (2, [5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),  # two interleaved streams
        (8, [5, 2, 2]),  # at twice the stride: what lies between is computed too, nothing twice
        (3, []),  # out of step: whatever was not seen before
    ],
)
def test_a_stream_costs_one_instant_for_each_observation(causal: Path, every: int, costs: list[int]):
    streaming = load_policy(causal, ROBOT, backend="torch_streaming", threads=1)
    stateless = load_policy(causal, ROBOT, backend="torch", threads=1)
    chunks, computed = stream(streaming, range(21), every)
    expected, _ = stream(stateless, range(21), every)
    np.testing.assert_allclose(chunks, expected, **CLOSE)
    if every != 3:
        assert computed == costs
    else:  # never more than the whole, and less than it on average
        assert max(computed) <= 5
        assert np.mean(computed) < 4
    again, computed_again = stream(streaming, range(21), every)  # another episode with the same times
    np.testing.assert_allclose(again, chunks, rtol=0, atol=1e-6)
    assert computed_again == computed


def test_another_instruction_is_another_stream(causal: Path):
    streaming = load_policy(causal, ROBOT, backend="torch_streaming", threads=1)
    stateless = load_policy(causal, ROBOT, backend="torch", threads=1)
    stamps = [0.4 * step for step in range(5)]
    told = dataclasses.replace(with_past([*stamps, 2.0]), task="lift the blue cube")
    streaming.infer(with_past(stamps), noise_seed=0)
    seen = dataclasses.replace(told, history=told.history[-4:])
    np.testing.assert_allclose(
        streaming.infer(seen, noise_seed=0).actions, stateless.infer(seen, noise_seed=0).actions, **CLOSE
    )


def test_a_model_that_is_not_causal_does_not_stream(tmp_path: Path):
    checkpoint = save_untrained_checkpoint(tmp_path / "run", ROBOT, preset_name="micro", n_obs_steps=2)
    export_bundle(checkpoint, tmp_path / "bundle", n_steps=1)
    with pytest.raises(ConfigError, match="train with --n-obs-steps 2 or more and --obs-attention causal"):
        load_policy(tmp_path / "bundle", ROBOT, backend="torch_streaming")


def test_training_looks_back_as_it_is_told(reach_dataset: Path, tmp_path: Path):
    """The options reach the model, the validation and the checkpoint; a checkpoint can be given a past later."""
    options = {"preset": "micro", "steps": 4, "batch_size": 4, "warmup_steps": 2, "save_every": 4, "validate_every": 4}
    common = {"dataset": (reach_dataset,), "threads": 1, **options}
    config = TrainConfig(out=tmp_path / "two", n_obs_steps=2, obs_stride=3, obs_attention="causal", **common)
    assert train(config) == 0
    trained = load_checkpoint(tmp_path / "two").config
    assert (trained.n_obs_steps, trained.obs_stride, trained.obs_lead, trained.n_instants) == (2, 3, 1, 3)
    wider = TrainConfig(out=tmp_path / "more", init=tmp_path / "two", n_obs_steps=3, **common)
    widened = prepare(wider).model_config
    assert (widened.n_obs_steps, widened.obs_stride, widened.obs_attention, widened.obs_lead) == (3, 3, "causal", 2)
    kept = prepare(TrainConfig(out=tmp_path / "same", init=tmp_path / "two", **common)).model_config
    assert kept == trained
    with pytest.raises(ConfigError, match="stage 'distill' keeps how far its checkpoint looks back"):
        TrainConfig(out=tmp_path / "x", init=tmp_path / "two", stage="distill", n_obs_steps=2, **common)
    with pytest.raises(ConfigError, match="unknown observation attention 'banded'"):
        TrainConfig(out=tmp_path / "x", obs_attention="banded", **common)
    distilled = TrainConfig(out=tmp_path / "one", init=tmp_path / "two", stage="distill", **common)
    assert train(distilled) == 0  # the stages take the past of their batches too


# -- the simulation ----------------------------------------------------------------------------------------------------


def test_a_simulation_draws_the_past_as_it_was_and_goes_on_from_now():
    """Pixel for pixel what ``observation`` returned then; and physics does not notice."""
    sim, plain = ArmSim("reach", ROBOT), ArmSim("reach", ROBOT)
    target = sim.proprio() + 0.2
    for each in (sim, plain):
        each.reset(3)
    past, taken = PastInstants(sim, Window(n_instants=3, spacing=0.2)), []
    for _ in range(7):
        past.sample()
        taken.append(plain.observation())
        for each in (sim, plain):
            each.step(target)
    past.sample()
    seen = past.observation()
    assert [instant.stamp for instant in seen.history] == pytest.approx([0.3, 0.5])
    for instant, then in zip(seen.history, (taken[3], taken[5]), strict=True):
        np.testing.assert_array_equal(instant.proprio, then.proprio)
        for name in ROBOT.camera_names:
            np.testing.assert_array_equal(instant.images[name], then.images[name])
    for each in (sim, plain):
        each.step(target)
    np.testing.assert_array_equal(sim.proprio(), plain.proprio())
    for name in ROBOT.camera_names:
        np.testing.assert_array_equal(sim.render(name), plain.render(name))
    sim.close()
    plain.close()


class NotingPolicy:
    """Holds still and notes the times of what it is shown."""

    chunk_length, window = 16, Window(n_instants=3, spacing=0.4)

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def reset(self) -> None:
        self.seen.clear()

    def infer(self, observation: Observation, *, noise_seed: int, continuation: object = None):
        from wam.spec import ActionChunk

        self.seen.append([round(instant.stamp, 3) for instant in (*observation.history, observation)])
        actions = np.tile(observation.proprio, (16, 1))
        return ActionChunk(actions=actions, stamp=observation.stamp, control_dt=0.1, anchor=observation.proprio)


@pytest.mark.parametrize("mode", ["frozen", "async", "real-time-chunking", "hold-last"])
def test_a_rollout_shows_the_policy_its_past(mode: str):
    sim = ArmSim("reach", ROBOT)
    policy = NotingPolicy()
    settings = LoopSettings(mode=mode, latency_s=0.05, execution_horizon=4)
    run_episode(sim, PolicyPlanner(policy), settings, seed=5)
    sim.close()
    assert policy.seen[0] == [0.0, 0.0, 0.0]
    if mode == "hold-last":  # asks between two control steps: the newest step before each instant serves it
        for first, second, now in policy.seen[5:]:
            assert 0.4 - 1e-6 <= now - second < 0.5
            assert 0.8 - 1e-6 <= now - first < 0.9
        return
    for first, second, now in policy.seen:
        assert (first, second) == pytest.approx((max(0.0, now - 0.8), max(0.0, now - 0.4)))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "torch", "torch_streaming"])
def test_evaluation_runs_on_every_backend(causal: Path, backend: str, tmp_path: Path):
    config = EvaluateConfig(
        bundle=causal,
        task="reach",
        out=tmp_path / backend,
        episodes=2,
        workers=1,
        latency_ms="20",
        references="none",
        backend=backend,
        videos=1,
        failure_videos=0,
    )
    results = evaluate(config)
    assert results["rows"][0]["episodes"] == 2
    assert set(results["rows"][0]["outcomes"]) <= {"success", "timeout"}
