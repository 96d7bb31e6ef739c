"""MuJoCo simulation: scenes, tasks, scripted experts and the files that compose them with a policy.

The simulator (``gl``, ``layout``, ``scene``, ``arm_sim``, ``tasks``, ``kinematics``, ``experts``, ``envs``) imports
only the torch-free part of ``wam``; ``collect``, ``evaluate``, ``demo``, ``bench`` and their helpers compose it with
the rest.
Nothing is imported here: MuJoCo must not load before ``sim.gl`` has chosen how to render.
"""

__all__ = ["arm_sim", "envs", "errors", "experts", "tasks"]
