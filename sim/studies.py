"""The studies behind the tables in ``docs/``: which models are trained, and what each is asked.

``language``: two cubes, the instruction names one; and the same scenes with the other one named; one model for all
tasks. ``steps``: success against the number of denoising steps, plain, self-distilled and after a stage of
DreamZero-Flash noise. ``suite``: one model for the four tasks of the suite: actions alone, beside the imagined future
and from it; visibility mixed or isolated; with and without the video loss. ``tokenizer``: three ways to turn images
into latents. ``quantise``: INT8 against float32.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.demo import RECIPES
from sim.study_plan import Figure, Plan
from sim.tasks import get_task
from wam.manifest import MANIFEST_NAME

__all__ = ["STUDIES", "SUITE", "Study"]

N_STEPS = (1, 2, 4, 10)
SUITE = ("reach", "lift", "push", "place")
TWO_CUBES = ("--distractors", 1)
OTHER_NAMED = (*TWO_CUBES, "--named", 1)
REACH_FIRST = (17, 1, 1, 1)  # shares of the suite's tasks while the colour is tied to its cube
SUITE_STEPS = 5000
FLASH_NOISE = ("--loss.noise", "flash", "--loss.weight-floor", 0.1)  # its video is near pure noise, and has to count
HELD_OUT_SEED = 60_000  # above every training set's seeds
# Column, other cubes, episodes, training steps, end of names. With one cube any picture of it will do; with two the
# colour decides.
REACHES = (("reach", 0, 1000, 1600, ""), ("reach with two cubes", 1, 1500, 2500, "_two"))
TOKENIZER_OPTIONS = ("--steps", 1500, "--batch-size", 16, "--learning-rate", 1e-3)
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


def _multi_task(plan: Plan, name: str, options: Sequence[object] = ()) -> Path:
    """Trains one model for the suite with two cubes in view; returns its run.

    Reach ties the colour to a place within 2500 steps; a lift alone had not after 3000, because all but its first
    frames give the answer away: the arm is on its way already. So reach comes first, with a little of the other tasks,
    whose gripper and words then count in the normalisation from the start.
    """
    data = [plan.collect(task, distractors=1, episodes=1500) for task in SUITE]
    start = plan.train(f"{name}_start", data, ["--shares", *REACH_FIRST, "--steps", 2500, *options])
    later = ["--shares", 1, 1, 1, 1, "--steps", SUITE_STEPS, "--learning-rate", 2e-3]
    run = plan.train(name, data, [*later, *options], init=start)
    plan.bundle(run)
    return run


def _language(plan: Plan) -> None:
    run = _multi_task(plan, "isolated")
    either = [task for task in SUITE if get_task(task).others is None]  # elsewhere the other cube cannot be asked for
    for row, options, tasks in (("first cube named", TWO_CUBES, SUITE), ("other cube named", OTHER_NAMED, either)):
        for task in tasks:
            plan.evaluate(row, task, run, task, options)


def _steps(plan: Plan) -> None:
    both_questions = ["--loss.questions.policy", 1, "--loss.questions.joint", 1]
    for task, demonstrations, steps in (("reach", 1000, 1600), ("lift", 1000, 2500)):
        data = [plan.collect(task, distractors=0, episodes=demonstrations)]
        plain = plan.train(f"{task}_plain", data, ["--steps", steps, *both_questions])
        later = ["--steps", 1000, "--learning-rate", 1e-3]
        distilled = plan.train(f"{task}_distilled", data, ["--stage", "distill", *later], init=plain)
        flash = plan.train(f"{task}_flash", data, [*FLASH_NOISE, *both_questions, *later], init=plain)
        for name, run, backend in (
            ("plain, fast", plain, "auto"),
            ("distilled, fast", distilled, "auto"),
            ("plain, joint", plain, "torch_joint"),
            ("Flash, joint", flash, "torch_joint"),
        ):
            plan.bundle(run)
            for n_steps in N_STEPS:
                plan.evaluate(name, f"{task}, N = {n_steps}", run, task, ["--n-steps", n_steps, "--backend", backend])


def _suite(plan: Plan) -> None:
    models = {"isolated": (), "mixed": MIXED_QUESTIONS, "without_video": ("--loss.video-weight", 0)}
    runs = {name: _multi_task(plan, name, options) for name, options in models.items()}
    for name, run, backend in (
        ("mixed, fast", "mixed", "auto"),
        ("mixed, joint", "mixed", "torch_joint"),
        ("mixed, inverse", "mixed", "torch_inverse"),
        ("isolated, fast", "isolated", "auto"),
        ("without the video loss, fast", "without_video", "auto"),
    ):
        for task in SUITE:
            plan.evaluate(name, task, runs[run], task, [*TWO_CUBES, "--backend", backend])


def _tokenizer(plan: Plan) -> None:
    held_out = plan.collect("reach", distractors=1, episodes=40, name="held_out", seed=HELD_OUT_SEED)
    models = {}
    for column, distractors, episodes, steps, suffix in REACHES:
        data = plan.collect("reach", distractors=distractors, episodes=episodes)
        learned = plan.train(f"tokenizer{suffix}", [data], ["--stage", "tokenizer", *TOKENIZER_OPTIONS])
        for row, name, options in (
            ("closed form", "patches", []),
            ("direct patches", "pixels", ["--tokenizer", "pixels"]),
            ("causal autoencoder", "autoencoder", ["--tokenizer", learned]),
        ):
            models[row] = plan.train(f"{name}{suffix}", [data], ["--steps", steps, *options])
            plan.bundle(models[row])
            if name == "autoencoder":
                plan.origins[models[row]] = learned  # its training counts as well
            against = "" if name == "patches" else "closed form"
            plan.evaluate(row, column, models[row], "reach", ["--distractors", distractors], against=against)
    plan.compare_tokenizers(models, held_out)


def _quantise(plan: Plan) -> None:
    for task in plan.tasks or SUITE:
        recipe = RECIPES[task]
        data = plan.collect(task, distractors=0, episodes=recipe.demonstrations)
        run = plan.train(task, [data], ["--steps", recipe.train_steps])
        plain = plan.bundle(run, task)
        plan.evaluate("float32", task, run, task, [], bundle=plain)
        small = plan.quantise(plain, data, "int8")
        plan.evaluate("INT8", task, run, task, [], bundle=small, against="float32")
        for what, text, key in (("bundle", "× {:.2f} smaller", "smaller"), ("chunks", "Δ {:.4f}", "chunk_change")):
            where = ("quantisation", key)
            source = small / MANIFEST_NAME
            plan.figures.append(Figure(row="INT8", column=f"{task}, {what}", source=source, keys=where, text=text))


STUDIES: Mapping[str, Study] = {
    "quantise": Study(
        title="INT8 on a CPU",
        question="What do eight bits change, on the same seeds: success, size, and chunks (normalised, mean)?",
        build=_quantise,
    ),
    "language": Study(
        title="Language that binds",
        question="Two cubes of random colours: does the policy go to the one that is named?",
        build=_language,
    ),
    "steps": Study(
        title="Success against the number of denoising steps",
        question="What do self-distillation of the action expert and DreamZero-Flash's noise change?",
        build=_steps,
    ),
    "suite": Study(
        title="One model for the suite",
        question="What does one model solve when it is asked in three ways, and what do mixing and the video loss add?",
        build=_suite,
    ),
    "tokenizer": Study(
        title="Images to latents in three ways",
        question="What do a learned autoencoder and direct patches change, and what do they cost?",
        build=_tokenizer,
    ),
}
