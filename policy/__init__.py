"""Real-time inference: observation in, action chunk out. numpy only at import; no torch, lerobot, MuJoCo or ROS.

``policy.load.load_policy`` opens a bundle for a robot, ``policy.runner.Policy`` turns one observation into one action
chunk, and ``policy.schedule.ChunkSchedule`` says which action of which chunk to command at a robot time. Inference
runtimes are imported inside the backend that needs them, so a robot installs only the one it uses.
"""

__all__ = ["errors", "load", "runner", "schedule"]
