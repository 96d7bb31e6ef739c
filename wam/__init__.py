"""World-action model: data contract, mathematics, training and export.

The torch-free part (``errors``, ``spec``, ``robot``, ``text``, ``normalise``, ``transforms``, ``manifest``) is all a
robot imports; everything else needs torch, and the dataset module needs lerobot. Nothing is imported here, so that
``import wam`` stays cheap on both sides.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
