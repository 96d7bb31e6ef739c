"""Parameters of the policy node."""

from dataclasses import dataclass, field

from policy.load import AUTO, BACKENDS
from policy.schedule import MODES
from ros_nodes.camera_check import MODES as CHECKS
from ros_nodes.parameters import param

__all__ = ["PolicyParameters"]

LIVE_MODES = tuple(mode for mode in MODES if mode != "frozen")  # on a robot the world does not wait


@dataclass(frozen=True, kw_only=True)
class PolicyParameters:
    """What a policy node is started with."""

    bundle: str = field(metadata=param("folder of the policy bundle"))
    robot: str = field(metadata=param("name or path of the robot file"))
    backend: str = field(default=AUTO, metadata=param("what runs the network", choices=(AUTO, *BACKENDS)))
    device: str = field(default=AUTO, metadata=param("where it runs", choices=(AUTO, "cpu", "cuda")))
    threads: int = field(default=0, metadata=param("CPU threads of the network; 0 lets the backend choose", low=0))
    n_steps: int = field(default=0, metadata=param("denoising steps per chunk; 0 takes the bundle's", low=0, high=1000))
    mode: str = field(default="temporal_ensembling", metadata=param("how chunks are joined", choices=LIVE_MODES))
    execution_horizon: int = field(
        default=0, metadata=param("actions after which a chunk is replaced; 0 takes half of it", low=0)
    )
    rate_hz: float = field(default=10.0, metadata=param("observations per second", unit="Hz", low=7, high=100))
    task: str = field(default="", metadata=param("instruction until one arrives on policy/task; empty waits for it"))
    autostart: bool = field(default=True, metadata=param("configure and activate without being told"))
    check_cameras: str = field(
        default="off",
        metadata=param(
            "before activation, compare every camera with its calibration and say when one has moved (warn), or do not "
            "activate then (refuse)",
            choices=CHECKS,
        ),
    )
    publish_imagined: bool = field(
        default=False, metadata=param("publish pictures of what the policy expects to see; needs torch")
    )
    imagined_rate_hz: float = field(
        default=1.0, metadata=param("imagined pictures per second at the most", unit="Hz", low=0.05, high=5)
    )
    consistency_rate_hz: float = field(
        default=2.0,
        metadata=param(
            "comparisons per second of what happened with what was commanded, where the bundle has an inverse-dynamics "
            "head; 0 makes none",
            unit="Hz",
            low=0,
            high=10,
        ),
    )
    consistency_limit: float = field(
        default=0.0,
        metadata=param("difference above which the diagnostics warn, in normalised units; 0 never warns", low=0),
    )
