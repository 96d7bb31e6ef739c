"""Whether the recorder keeps everything: cameras and joints for some minutes, compared stamp by stamp with the file."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ros_nodes.bench_listener import Listener
from ros_nodes.errors import GraphError
from wam.robot import load_robot

__all__ = ["lost_messages", "measure_recorder", "recorded_stamps"]

END_S = 60.0  # longest wait for a process that was asked to end


def measure_recorder(
    folder: Path, robot_name: str, seconds: float, compression: str, each: Callable[[float], None]
) -> dict[str, Any]:
    """Records a synthetic robot and counts what is missing.

    Args:
        folder: For the recording, which is removed again, and logs.
        robot_name: Its cameras and joints are imitated.
        seconds: Length of the recording [s].
        compression: Of the recording.
        each: Told from time to time how many seconds are left.

    Returns:
        ``lost``: messages sent between the first and the last that were recorded, but not recorded; ``sent`` and
        ``recorded`` per topic; the recorder's own ``summary``.

    Raises:
        GraphError: A node failed.
    """
    recordings = folder / "recordings"
    source = _start("bench_source", f"robot:={robot_name}")
    recorder = _start("recorder_node", f"robot:={robot_name}", f"folder:={recordings}", f"compression:={compression}")

    def check() -> None:
        for name, process in {"source": source, "recorder": recorder}.items():
            if process.poll() is not None:
                raise GraphError(f"the {name} ended with status {process.returncode}: its own message stands above.")

    try:
        with Listener(load_robot(robot_name), check) as listener:
            _ask(listener, "recorder/start")
            listener.spin(seconds, each)
            _ask(listener, "recorder/stop")
        sent = json.loads(_end(source).strip().splitlines()[-1])
        _end(recorder)
    finally:
        for process in (source, recorder):
            process.kill()
            process.wait()
    file = next(recordings.glob("*.mcap"))
    recorded = recorded_stamps(file, sent)
    result = {
        "lost": sum(lost_messages(sent[topic], recorded[topic]) for topic in sent),
        "sent": {topic: len(stamps) for topic, stamps in sent.items()},
        "recorded": {topic: len(stamps) for topic, stamps in recorded.items()},
        "seconds": seconds,
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "summary": json.loads(file.with_suffix(".json").read_text()),
    }
    for path in recordings.iterdir():
        path.unlink()
    recordings.rmdir()
    return result


def lost_messages(sent: list[int], recorded: list[int]) -> int:
    """Counts the stamps between the first and last recorded one that were sent and not recorded."""
    if not recorded:
        return len(sent)
    kept = set(recorded)
    first, last = min(kept), max(kept)
    return sum(first <= stamp <= last and stamp not in kept for stamp in sent)


def _start(module: str, *parameters: str) -> subprocess.Popen[str]:
    flags = [word for parameter in parameters for word in ("-p", parameter)]
    command = [sys.executable, "-m", f"ros_nodes.{module}", "--ros-args", *flags]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def _end(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=END_S)
    return output


def _ask(listener: Listener, service: str) -> None:
    """Calls a service of the recorder until it agrees: streams have to be alive before an episode begins."""
    refusal = ""

    def agreed() -> bool:
        nonlocal refusal
        success, refusal = listener.call(service)
        return success

    try:
        listener.until(agreed, f"{service} succeeds")
    except GraphError as error:
        raise GraphError(f"{error} It says: {refusal}") from error


def recorded_stamps(file: Path, topics: Iterable[str]) -> dict[str, list[int]]:
    """Header stamps of what a file holds [ns]; the recorder stores them as publish times."""
    from mcap.reader import NonSeekingReader  # the seeking one unpacks the whole file before the first message

    found: dict[str, list[int]] = {topic: [] for topic in topics}
    with file.open("rb") as stream:
        for _, channel, message in NonSeekingReader(stream).iter_messages(list(topics), log_time_order=False):
            found[channel.topic].append(message.publish_time)
    return found
