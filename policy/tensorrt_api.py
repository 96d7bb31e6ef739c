"""The two libraries with TensorRT's API: ``tensorrt`` (Jetson, data centre, RTX) and ``tensorrt_rtx`` (RTX cards).

Everything here uses names that TensorRT 10.3, 10.16 and 11.4 and TensorRT for RTX 1.7 all have; tests check that
against dumps of their APIs. The logger is one object per library that lives as long as the process: TensorRT keeps a
bare pointer to it. There is no Python error recorder, which crashed; the logger collects the text of errors instead.
"""

import importlib
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from policy.errors import BackendError
from wam.errors import unknown_name

__all__ = ["AUTO", "RUNTIMES", "Log", "dtype_name", "import_tensorrt", "log_of"]

logger = logging.getLogger(__name__)

AUTO = "auto"
RUNTIMES = ("tensorrt", "tensorrt_rtx")  # in order of preference
KEPT_ERRORS = 20  # lines of an exception's text
# TensorRT's name -> the manifest's, which is numpy's where numpy has the type.
DTYPES: Mapping[str, str] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "INT8": "int8",
    "BOOL": "bool",
}

_LOGS: dict[str, "Log"] = {}  # library -> its logger, alive until the process ends


class Log:
    """What TensorRT says, as Python records; errors are kept until they are asked for."""

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self._errors: deque[str] = deque(maxlen=KEPT_ERRORS)
        self._lines: list[str] | None = None
        self.handle = self._make_handle()  # what TensorRT's constructors take

    def errors(self) -> str:
        """Returns the errors since the last call as one text, and forgets them."""
        text = "; ".join(self._errors) or "TensorRT gave no reason"
        self._errors.clear()
        return text

    def start(self) -> None:
        """Begins to keep every line, however detailed, and forgets earlier errors."""
        self._errors.clear()
        self._lines = []

    def stop(self) -> list[str]:
        """Returns the lines since ``start``."""
        lines, self._lines = self._lines or [], None
        return lines

    def take(self, severity: Any, text: str) -> None:
        """Files one message; called by TensorRT, from any of its threads."""
        severities = self._trt.ILogger
        if self._lines is not None:
            self._lines.append(text)
        if severity in (severities.ERROR, severities.INTERNAL_ERROR):
            self._errors.append(text)
            logger.debug("TensorRT: %s", text)  # whoever asked gets the text in an exception
        elif severity == severities.WARNING:
            logger.info("TensorRT: %s", text)  # parsers warn about much that nobody can change

    def _make_handle(self) -> Any:
        take = self.take

        class Handle(self._trt.ILogger):  # type: ignore[name-defined]
            """The subclass that TensorRT calls."""

            def log(self, severity: Any, msg: str) -> None:
                take(severity, msg)

        return Handle()


def import_tensorrt(name: str = AUTO) -> Any:
    """Imports TensorRT.

    Args:
        name: One of ``RUNTIMES``, or "auto": the first that is installed.

    Raises:
        BackendError: It is unknown or not installed.
    """
    if name != AUTO and name not in RUNTIMES:
        raise BackendError(unknown_name("TensorRT runtime", name, [AUTO, *RUNTIMES]))
    failures = []
    for candidate in RUNTIMES if name == AUTO else (name,):
        try:
            return importlib.import_module(candidate)
        except (ImportError, OSError, RuntimeError) as error:  # its own libraries may be missing or of another release
            failures.append(f"{candidate}: {error}")
    raise BackendError(
        f"backend 'tensorrt' needs TensorRT, which cannot be imported ({'; '.join(failures)}): a Jetson has it from "
        "JetPack (python3-libnvinfer, in a virtual environment made with --system-site-packages), RTX cards from "
        "world_action_model[trt]; or choose backend 'onnx'."
    )


def log_of(trt: Any) -> Log:
    """Returns the one logger of a library, made at its first use."""
    if trt.__name__ not in _LOGS or _LOGS[trt.__name__]._trt is not trt:
        _LOGS[trt.__name__] = Log(trt)
    return _LOGS[trt.__name__]


def dtype_name(trt: Any, dtype: Any) -> str:
    """Returns the manifest's name of a ``trt.DataType``."""
    for name, ours in DTYPES.items():
        if dtype == getattr(trt.DataType, name):
            return ours
    return str(dtype)
