"""What ``wam bench`` times: our policy on each backend, LeRobot's ACT, and the rendering of one observation.

A contender's ``run`` does one unit of work; everything it needs is made before. Our policy is timed from the robot's
observation to the finished chunk, checks and image resizing included; ACT only inside ``predict_action_chunk``, what
its ``select_action`` runs when its queue is empty, on tensors that are already normalised: the comparison errs in its
favour.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from policy.cuda import Cuda, no_device_reason
from policy.errors import BackendError
from policy.load import load_policy
from policy.tensorrt_plan import has_engines
from policy.timing import Contender, resident_bytes
from sim.arm_sim import ArmSim
from wam.manifest import read_manifest
from wam.robot import RobotSpec
from wam.spec import ACTION, OBS_STATE, Observation, image_key

__all__ = ["Contender", "act_contender", "default_backends", "memory_bytes", "policy_contenders", "render_contender"]


def policy_contenders(
    bundle: Path,
    robot: RobotSpec,
    observation: Observation,
    *,
    backends: Sequence[str],
    step_counts: Sequence[int],
    threads: int | None,
) -> list[Contender]:
    """Returns one contender per backend and number of denoising steps.

    Args:
        bundle: Policy bundle.
        robot: Its robot.
        observation: What every chunk is planned from.
        backends: Names of ``policy.load.BACKENDS``.
        step_counts: Numbers of denoising steps.
        threads: CPU threads of the onnx backend; None is its own choice. torch keeps its own threads, because they
            belong to the whole process and ACT uses them too.
    """
    contenders = []
    for backend in backends:
        before = memory_bytes()
        loaded = load_policy(bundle, robot, backend=backend, threads=threads if backend == "onnx" else None)
        memory = {kind: max(0.0, now - before[kind]) / 1e6 for kind, now in memory_bytes().items()}
        for n_steps in step_counts:
            policy = loaded.with_steps(n_steps)
            contenders.append(
                Contender(
                    name=f"{backend}_{n_steps}",
                    what=f"ours, {backend}, {n_steps} step{'s' if n_steps > 1 else ''}",
                    device=policy.device,
                    run=lambda policy=policy: policy.infer(observation, noise_seed=0),
                    memory_mb=memory,
                )
            )
    return contenders


def default_backends(bundle: Path) -> tuple[str, ...]:
    """Returns what runs here: ONNX Runtime, torch, and on a GPU compiled torch and engines that were built."""
    manifest, gpu = read_manifest(bundle), not no_device_reason()
    names = ["onnx"] if gpu or manifest.dtype != "bfloat16" else []  # which ONNX Runtime does not compute on a CPU
    names += ["torch"] if manifest.weights else []
    names += ["torch_compiled"] if manifest.weights and gpu else []
    names += ["tensorrt"] if gpu and has_engines(bundle) else []
    return tuple(names)


def memory_bytes() -> dict[str, float]:
    """Returns the memory in use: "rss" of this process, "gpu" of the device by all processes; 0 without one."""
    try:
        on_gpu = Cuda().memory_used()
    except BackendError:
        on_gpu = 0
    return {"rss": float(resident_bytes()), "gpu": float(on_gpu)}


def act_contender(robot: RobotSpec) -> Contender:
    """Returns LeRobot's ACT at its default size, random weights, with the robot's cameras and axes."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    state = PolicyFeature(type=FeatureType.STATE, shape=(robot.action_dim,))
    images = {
        image_key(camera.name): PolicyFeature(type=FeatureType.VISUAL, shape=(3, camera.height_px, camera.width_px))
        for camera in robot.cameras
    }
    config = ACTConfig(
        input_features={OBS_STATE: state, **images},
        output_features={ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(robot.action_dim,))},
        pretrained_backbone_weights=None,  # weights do not change the time, and would be downloaded
        device="cpu",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about weights that are not asked for
        policy = ACTPolicy(config).eval()
    batch = {name: torch.zeros(1, *feature.shape) for name, feature in config.input_features.items()}
    millions = sum(parameter.numel() for parameter in policy.parameters()) / 1e6
    return Contender(
        name="act",
        what=f"LeRobot ACT, {millions:.1f} M",
        device=f"cpu, {torch.get_num_threads()} thread(s)",
        run=lambda: policy.predict_action_chunk(batch),
    )


def render_contender(sim: ArmSim, robot: RobotSpec) -> Contender:
    """Returns the drawing of all cameras of one observation; the arm moves in between, untimed."""
    rng = np.random.default_rng(0)
    sizes = ", ".join(sorted({f"{camera.width_px}x{camera.height_px}" for camera in robot.cameras}))

    def move() -> None:
        sim.step((robot.lower + rng.uniform(0.4, 0.6) * (robot.upper - robot.lower)).astype(np.float32))

    return Contender(
        name="render",
        what=f"render {len(robot.cameras)} x {sizes} px",
        device="cpu, Mesa",
        run=lambda: [sim.render(camera) for camera in robot.camera_names],
        before=move,
    )
