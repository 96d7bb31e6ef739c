"""Runs a node whose servos are simulated in another process: ``patient_servos.py MODULE [arguments]``."""

import runpy
import sys

from feetech_servos import be_patient  # of this folder: another package may be called tests

if __name__ == "__main__":
    be_patient(2.0)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
