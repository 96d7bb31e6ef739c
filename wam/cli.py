"""The console command ``wam <verb> [options]``: one table of verbs, each verb's module imported only when it is used.

A verb's module has ``main(argv: list[str]) -> int``. Errors that input, files or configuration caused (``WamError``)
become one message on stderr and exit status 2, like bad arguments; a library that is not installed becomes the name of
the extra that brings it; Ctrl-C is status 130. Everything else is our own bug and keeps its traceback.
"""

import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import wam
from wam.errors import WamError, unknown_name

__all__ = ["OPTIONAL_LIBRARIES", "VERBS", "Verb", "main"]

EXIT_USAGE = 2  # bad arguments or bad input
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what shells expect after Ctrl-C

IMPORT_ROOTS = ("wam", "policy", "sim", "calibration", "ros_nodes")


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of the command."""

    module: str  # imported when the verb is used; its main(argv) does the work
    help: str  # one line for `wam --help`


VERBS: Mapping[str, Verb] = {
    "demo": Verb(module="sim.demo", help="collect, train, export and evaluate in one go; ends with an HTML report"),
    "collect": Verb(module="sim.collect", help="record scripted demonstrations as a LeRobot v3 dataset"),
    "convert": Verb(module="sim.convert", help="turn episodes recorded on a robot into a LeRobot v3 dataset"),
    "train": Verb(module="wam.train_command", help="train a world-action model on a dataset"),
    "export": Verb(module="wam.export", help="turn a checkpoint into a policy bundle that runs without torch"),
    "engine": Verb(module="policy.engine", help="build TensorRT engines from a bundle, on the machine that runs them"),
    "quantise": Verb(module="wam.quantise", help="make a bundle 8 bits wide, calibrated on a dataset and judged"),
    "evaluate": Verb(module="sim.evaluate", help="judge a policy bundle in closed loop on simulated tasks"),
    "evaluate world": Verb(module="sim.evaluate_world", help="compare what a model imagines with what MuJoCo does"),
    "study": Verb(module="sim.study", help="train and judge several models; one table with intervals"),
    "verify": Verb(module="policy.verify", help="check a bundle on this machine: results, layers, latency"),
    "calibrate": Verb(module="calibration.main", help="calibrate cameras, arm and time; check that nothing moved"),
    "calibrate effect": Verb(module="sim.calibration_effect", help="what a knocked camera costs a simulated policy"),
    "bench": Verb(module="sim.bench", help="measure the latency of a policy on this machine, beside other policies"),
    "bench ros": Verb(module="ros_nodes.bench", help="measure the running graph: rates, ages, time until it holds"),
    "up": Verb(module="ros_nodes.up", help="start the nodes of a launch file without ROS's command line tools"),
    "top": Verb(module="ros_nodes.top", help="show the running graph: rates, ages, guard, latencies, recorder"),
    "call": Verb(module="ros_nodes.call", help="call a service of the graph: guard/engage, recorder/start, ..."),
    "label": Verb(module="sim.label", help="name the actions in video that has none, and make a dataset of it"),
    "view": Verb(module="sim.view", help="show what a model imagines beside what happened: film, PSNR and SSIM"),
    "doctor": Verb(module="wam.doctor", help="what this machine can do, and how to get what is missing"),
}

# Importable name -> extra of setup.py that brings it. A robot computer has none of these, so their absence is no bug.
OPTIONAL_LIBRARIES: Mapping[str, str] = {
    "PIL": "sim",
    "accelerate": "train",
    "av": "sim",
    "diffusers": "wan",
    "gymnasium": "sim",
    "jaxtyping": "train",
    "jinja2": "sim",
    "lerobot": "train",
    "matplotlib": "sim",
    "mcap": "train",
    "mcap_ros2": "train",
    "metaworld": "metaworld",
    "mujoco": "sim",
    "onnx": "export",
    "pyarrow": "train",
    "rclpy": "ros",
    "scipy": "sim",
    "scservo_sdk": "so101",
    "tensorboard": "train",
    "tensorrt_rtx": "trt",
    "torch": "train",
    "transformers": "wan",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The process's exit status: 0 success, 2 bad arguments or input, 130 interrupted, otherwise the verb's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_usage())
        return 0 if arguments else EXIT_USAGE
    if arguments[0] == "--version":
        print(f"wam {wam.__version__}")
        return 0
    name = next((name for name in (" ".join(arguments[:2]), arguments[0]) if name in VERBS), "")
    if not name:
        return _refuse(unknown_name("verb", arguments[0], VERBS, fix="See `wam --help`."))
    _configure_logging()
    return _run(name, VERBS[name], arguments[len(name.split()) :])


def _run(name: str, verb: Verb, arguments: list[str]) -> int:
    try:
        return importlib.import_module(verb.module).main(arguments)
    except WamError as error:
        return _refuse(f"wam {name}: {error}")
    except ModuleNotFoundError as error:
        library = (error.name or "").split(".")[0]
        if library not in OPTIONAL_LIBRARIES:
            raise
        return _refuse(f"wam {name}: {_install_hint(library)}")
    except KeyboardInterrupt:
        print(f"\nwam {name}: interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED


def _install_hint(library: str) -> str:
    extra = OPTIONAL_LIBRARIES[library]
    own = " Where ROS 2 is installed, source its setup script instead." if library == "rclpy" else ""
    return (
        f"needs the library '{library}', which is not installed here. Run `make environment` in the repository for "
        f"everything, or install the extra that brings it: pip install 'world_action_model[{extra}]'.{own}"
    )


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return EXIT_USAGE


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items())
    return (
        "usage: wam <verb> [options]\n\n"
        "Train a world-action model, export it, run it and judge it.\n\n"
        f"verbs:\n{verbs}\n\n"
        "options of a verb, with units and defaults: wam <verb> --help\n"
        "version: wam --version"
    )


def _configure_logging() -> None:
    # Libraries stay at WARNING: their progress notes would drown ours.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=False)
    for root in IMPORT_ROOTS:
        logging.getLogger(root).setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
