"""The studies behind the tables in ``docs/``: which models are trained, and what each is asked.

``language``: two cubes, the instruction names one; and the same scenes with the other one named. ``steps``: success
against the number of denoising steps for the plain and the self-distilled action expert. ``suite``: one model for the
four tasks of the suite: actions alone, beside the imagined future and from it; visibility mixed or isolated; with and
without the video loss.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sim.study_plan import Plan

__all__ = ["STUDIES", "Study"]

N_STEPS = (1, 2, 4, 10)
SUITE = ("reach", "lift", "push", "place")
TWO_CUBES = ("--distractors", 1)
OTHER_NAMED = (*TWO_CUBES, "--named", 1)
SUITE_STEPS = 16000
MIXED_QUESTIONS = tuple(
    word
    for name, share in (("policy", 2), ("joint", 1), ("inverse", 1), ("forward", 1))
    for word in (f"--loss.questions.{name}", share)
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """One table."""

    title: str
    question: str  # what it answers, one sentence
    build: Callable[[Plan], None]  # fills a plan


def _language(plan: Plan) -> None:
    for task, demonstrations, steps in (("reach", 2000, 3000), ("lift", 2000, 6000)):
        data = plan.collect(task, distractors=1, episodes=demonstrations)
        run = plan.train(f"{task}_two_cubes", [data], ["--steps", steps])
        plan.bundle(run)
        plan.evaluate("first cube named", task, run, task, TWO_CUBES)
        plan.evaluate("other cube named", task, run, task, OTHER_NAMED)


def _steps(plan: Plan) -> None:
    for task, demonstrations, steps in (("reach", 1000, 1600), ("lift", 1000, 2500)):
        data = plan.collect(task, distractors=0, episodes=demonstrations)
        plain = plan.train(f"{task}_plain", [data], ["--steps", steps])
        distilled = plan.train(
            f"{task}_distilled",
            [data],
            ["--stage", "distill", "--init", plain, "--steps", 1000, "--learning-rate", 1e-3],
        )
        for name, run in (("plain", plain), ("distilled", distilled)):
            plan.bundle(run)
            for n_steps in N_STEPS:
                plan.evaluate(name, f"{task}, N = {n_steps}", run, task, ["--n-steps", n_steps])


def _suite(plan: Plan) -> None:
    data = [plan.collect(task, distractors=1, episodes=1500) for task in SUITE]
    common = ["--steps", SUITE_STEPS, "--start-share", 0.4]
    mixed = plan.train("mixed", data, [*common, *MIXED_QUESTIONS])
    isolated = plan.train("isolated", data, common)
    without = plan.train("without_video", data, [*common, "--loss.video-weight", 0])
    for name, run, backend in (
        ("mixed, fast", mixed, "auto"),
        ("mixed, joint", mixed, "torch_joint"),
        ("mixed, inverse", mixed, "torch_inverse"),
        ("isolated, fast", isolated, "auto"),
        ("without the video loss, fast", without, "auto"),
    ):
        plan.bundle(run)
        for task in SUITE:
            plan.evaluate(name, task, run, task, [*TWO_CUBES, "--backend", backend])


STUDIES: Mapping[str, Study] = {
    "language": Study(
        title="Language that binds",
        question="Two cubes of random colours: does the policy go to the one that is named?",
        build=_language,
    ),
    "steps": Study(
        title="Success against the number of denoising steps",
        question="What does self-distillation of the action expert change?",
        build=_steps,
    ),
    "suite": Study(
        title="One model for the suite",
        question="What does one model solve when it is asked in three ways, and what do mixing and the video loss add?",
        build=_suite,
    ),
}
