"""Exceptions of the ``ros_nodes`` package."""

from wam.errors import WamError

__all__ = ["GraphError", "MessageError", "NodeError", "ParameterError"]


class NodeError(WamError):
    """Base of every error of a node that its user can put right."""


class ParameterError(NodeError):
    """A node parameter that is unknown, missing, of the wrong type or out of range."""


class MessageError(NodeError):
    """A message that breaks its contract: wrong names, shape, encoding or numbers."""


class GraphError(NodeError):
    """A graph that cannot work: a node twice, a topic without its publisher, a service that does not answer."""
