"""Real-time inference: observation in, action chunk out. numpy only at import; no torch, lerobot, MuJoCo or ROS.

In the order of the data: ``alignment`` makes observations of streams, ``load`` opens a bundle, ``runner.Policy`` turns
an observation into an action chunk, ``session`` does so in a thread of its own, and ``guard`` turns chunks into
commands that keep every limit. ``schedule`` is the same order of events in simulated time. Inference runtimes are
imported inside the backend that needs them, so a robot installs only the one it uses.
"""

__all__ = ["alignment", "errors", "guard", "load", "runner", "schedule", "session"]
