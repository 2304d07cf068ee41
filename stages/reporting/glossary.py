"""The names and definitions of the measures."""

from collections.abc import Mapping

GLOSSARY_HEAD = (
    "T tasks; R[i, j] is the score on task j after task i, R[0, j] that of the base model; higher is better."
)
OTHER_PICTURES = "of other prompts and other noises"
# Measure -> its name and its definition.
GLOSSARY = {
    "average_score": ("average score", "mean over j of R[T, j]"),
    "forgetting_unbiased": (
        "forgetting",
        "mean over j < T of R[i*, j] - R[T, j], where i* >= j has the largest score in other pictures ("
        f"{OTHER_PICTURES}); 0 on average where nothing is forgotten, else often too small",
    ),
    "backward_transfer": (
        "backward transfer",
        "mean over j < T of R[T, j] - R[j, j]; takes no maximum, so it is unbiased",
    ),
    "forgetting": (
        "forgetting as published",
        "mean over j of max over i >= j of R[i, j], minus R[T, j]; divided by T, as in the paper's code. Biased "
        "upward: a maximum of noisy scores is above 0 even where nothing is forgotten",
    ),
    "forgetting_usual": (
        "forgetting as published (T - 1)",
        "the same without the last task, divided by T - 1, as usual elsewhere",
    ),
    "plasticity": ("when learned", "mean over j of R[j, j], right after the task itself"),
    "earlier_score": ("earlier tasks", "mean over j < T of R[T, j]: the average score without the last task"),
    "gain": ("gain over base", "mean over j of R[T, j] - R[0, j]"),
    "gain_when_learned": ("gain when learned", "mean over j of R[j, j] - R[0, j]"),
    "own_minus_others": (
        "own - others",
        "similarity to the own concept minus the mean similarity to all others, at the end",
    ),
    "own_minus_others_earlier": ("own - others, earlier", "the same for j < T"),
    "own_minus_others_when_learned": ("own - others, when learned", "the same right after the task itself"),
    "own_minus_others_gain": ("own - others, gain", "the same for j < T at the end, minus the base model's"),
    "top1": ("top-1", "share of pictures that resemble their own concept most of all T, at the end; by chance 1 / T"),
    "top1_earlier": ("top-1, earlier", "the same for j < T"),
    "top1_when_learned": ("top-1, when learned", "the same right after the task itself"),
    "top1_gain": ("top-1, gain", "the same for j < T at the end, minus the base model's"),
}
# What was lost, in several definitions: a table shows one of them, and the others stand apart.
LOSSES = ("forgetting_unbiased", "backward_transfer", "forgetting", "forgetting_usual")
IN_WORDS = (
    "average score: similarity of the pictures to their concept's photos (or to the prompt) at the end; forgetting: "
    "how much of it was lost since its best, which is chosen and measured on different pictures; when learned: right "
    "after its own task; own - others: similarity to the own concept minus that to the others; top-1: share of "
    "pictures that resemble their own concept the most; earlier: of all concepts but the last."
)


def definitions(levels: Mapping[str, int]) -> list[tuple[str, str]]:
    """The names and definitions for a study with so many levels of each factor.

    Forgetting is measured on other prompts and noises than the row of the maximum is chosen by, where there are others.
    """
    several = [f"other {factor}s" for factor in ("prompt", "noise") if levels[factor] > 1]
    known = f"of {' and '.join(several)}" if several else OTHER_PICTURES
    return [(title, text.replace(OTHER_PICTURES, known)) for title, text in GLOSSARY.values()]
