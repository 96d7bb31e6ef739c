"""The probes of ``wam doctor`` that import large or fragile libraries, each run in a process of its own.

``python -m wam.doctor_probes <name>`` prints one finding as JSON. A separate process, because a graphics driver or a
CUDA library that crashes must not take the report down, and because MuJoCo reads its GL backend only once.
"""

import dataclasses
import glob
import importlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

__all__ = ["BROKEN", "GL_PACKAGES", "MISSING", "OK", "PROBES", "Finding", "main"]

OK = "ok"
MISSING = "missing"  # an option this machine does not have; everything else works
BROKEN = "broken"  # there, or always needed, and not working

GL_PACKAGES = "libegl1 libgl1 libgl1-mesa-dri"  # Debian's and Ubuntu's names
RED_BOX = """
<mujoco>
  <visual><quality shadowsize="0" offsamples="0"/></visual>
  <worldbody>
    <light pos="0 0 2"/>
    <camera pos="0 -1 0" xyaxes="1 0 0 0 0 1"/>
    <geom type="box" size=".2 .2 .2" rgba="1 0 0 1"/>
  </worldbody>
</mujoco>
"""  # shadows and multisampling off: they would dominate the time on a software renderer
ALL_LIBRARIES = "run `make environment` in the repository"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one probe found."""

    status: str  # OK, MISSING or BROKEN
    value: str  # what was found, in words
    fix: str = ""  # one line on how to get it; empty when there is nothing to do


def probe_torch() -> Finding:
    """Which torch build is installed, and whether it can use a GPU."""
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError:
        fix = f"for training {ALL_LIBRARIES}, or pip install 'world_action_model[train]'; a robot does without"
        return Finding(status=MISSING, value="not installed", fix=fix)
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    value = f"{torch.__version__}, {build}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding(status=OK, value=f"{value}, uses {names}")
    if shutil.which("nvidia-smi"):
        fix = "make environment TORCH_BACKEND=auto picks the build that fits the driver"
        return Finding(status=MISSING, value=f"{value}, cannot use the GPU", fix=fix)
    return Finding(status=OK, value=f"{value}, no CUDA device")


def probe_lerobot() -> Finding:
    """Whether datasets can be written and read."""
    try:
        importlib.import_module("lerobot.datasets")
    except ModuleNotFoundError as error:
        fix = f"for recording and training {ALL_LIBRARIES}, or pip install 'world_action_model[train]'"
        return Finding(status=MISSING, value=f"not installed ({error.name})", fix=fix)
    return Finding(status=OK, value=version("lerobot"))


def probe_onnxruntime() -> Finding:
    """ONNX Runtime's version and execution providers; every machine needs it."""
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ModuleNotFoundError:
        return Finding(status=BROKEN, value="not installed", fix=f"pip install onnxruntime, or {ALL_LIBRARIES}")
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers())
    return Finding(status=OK, value=f"{runtime.__version__}, providers: {providers}")


def probe_tensorrt() -> Finding:
    """TensorRT, of JetPack or a data-centre installation, or TensorRT for RTX."""
    found = []
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            found.append(f"{name} {importlib.import_module(name).__version__}")
        except ModuleNotFoundError:
            continue
    if found:
        return Finding(status=OK, value=", ".join(found))
    fix = "Jetson: it comes with JetPack (python3-libnvinfer); RTX cards: pip install 'world_action_model[trt]'"
    return Finding(status=MISSING, value="not installed", fix=fix)


def probe_ros() -> Finding:
    """Whether rclpy and its middleware load, and which distribution and prefixes the environment names."""
    distro = os.environ.get("ROS_DISTRO", "unset")
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "unset")
    place = f"ROS_DISTRO={distro}, AMENT_PREFIX_PATH={prefixes}"
    try:
        rclpy: Any = importlib.import_module("rclpy")
    except ModuleNotFoundError:
        fix = "source /opt/ros/<distro>/setup.bash, or on x86-64 pip install 'world_action_model[ros]'"
        return Finding(status=MISSING, value=f"rclpy not importable ({place})", fix=fix)
    try:
        release = version("rclpy")
    except PackageNotFoundError:
        release = version("ros-rclpy")  # the name of the wheel
    middleware = rclpy.get_rmw_implementation_identifier()
    return Finding(status=OK, value=f"rclpy {release}, {middleware} ({place})")


def probe_gl() -> Finding:
    """Renders frames with MuJoCo through the backend that ``MUJOCO_GL`` names."""
    try:
        mujoco: Any = importlib.import_module("mujoco")
    except ModuleNotFoundError:
        fix = f"for simulation {ALL_LIBRARIES}, or pip install 'world_action_model[sim]'"
        return Finding(status=MISSING, value="mujoco is not installed", fix=fix)
    model = mujoco.MjModel.from_xml_string(RED_BOX)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 96, 96) as renderer:
        renderer.update_scene(data, camera=0)
        first = renderer.render()
        start = time.perf_counter()
        renderer.render()
        frame_ms = (time.perf_counter() - start) * 1e3
        device = importlib.import_module("OpenGL.GL").glGetString(0x1F01).decode()  # 0x1F01 is GL_RENDERER
    if first[48, 48, 0] <= first[48, 48, 1]:
        return Finding(status=BROKEN, value=f"{device} renders a red box as {first[48, 48].tolist()}")
    backend = os.environ.get("MUJOCO_GL", "default")
    return Finding(
        status=OK, value=f"MuJoCo {mujoco.__version__}, {backend}, {device}, {frame_ms:.1f} ms per 96x96 frame"
    )


def probe_video() -> Finding:
    """Encodes and decodes a short H.264 clip in memory."""
    try:
        av: Any = importlib.import_module("av")
    except ModuleNotFoundError:
        fix = f"for datasets and reports {ALL_LIBRARIES}, or pip install 'world_action_model[sim]'"
        return Finding(status=MISSING, value="PyAV is not installed", fix=fix)
    frames = [np.full((96, 96, 3), 20 * i, dtype=np.uint8) for i in range(8)]
    clip = io.BytesIO()
    with av.open(clip, mode="w", format="mp4") as container:
        stream = container.add_stream("h264", rate=10, width=96, height=96, pix_fmt="yuv420p")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    clip.seek(0)
    with av.open(clip) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    error = max((abs(float(a.mean()) - float(b.mean())) for a, b in zip(frames, decoded, strict=False)), default=255.0)
    if len(decoded) != len(frames) or error > 5:
        return Finding(
            status=BROKEN, value=f"{len(decoded)} of {len(frames)} frames came back, grey level off by {error:.0f}"
        )
    return Finding(status=OK, value=f"PyAV {av.__version__}, H.264 encode and decode")


def probe_cameras() -> Finding:
    """Opens every video device and reads one frame."""
    cv2: Any = importlib.import_module("cv2")
    devices = sorted(glob.glob("/dev/video*"))
    seen = []
    for device in devices:
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        good, frame = capture.read()
        capture.release()
        if good:
            seen.append(f"{device} {frame.shape[1]}x{frame.shape[0]}")
    if seen:
        return Finding(status=OK, value=", ".join(seen))
    if devices:
        fix = "close the program that uses it, and add this user to the group 'video'"
        return Finding(status=MISSING, value=f"{', '.join(devices)} gave no frame", fix=fix)
    fix = "plug in a USB camera (in a container pass --device=/dev/video0); simulation needs none"
    return Finding(status=MISSING, value="no /dev/video* device", fix=fix)


PROBES: Mapping[str, Callable[[], Finding]] = {
    "torch": probe_torch,
    "lerobot": probe_lerobot,
    "onnxruntime": probe_onnxruntime,
    "tensorrt": probe_tensorrt,
    "ros": probe_ros,
    "gl": probe_gl,
    "video": probe_video,
    "cameras": probe_cameras,
}


def main() -> int:
    """Runs the probe named on the command line and prints its finding."""
    print(json.dumps(dataclasses.asdict(PROBES[sys.argv[1]]())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
