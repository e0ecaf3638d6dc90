"""A published run of MME's own tool: LaVIN's answers, which come with the tool.

Of each subtask what the tool counts; answers with these counts are made here, since
the counts are all that its scores depend on.
"""

from memplan.mme.results import result_line
from memplan.mme.tasks import TASKS

COUNTS = {
    "existence": (29, 1, 2, 28, 0, 90.0000, 185.0000),
    "count": (25, 5, 18, 12, 0, 26.6667, 88.3333),
    "position": (29, 1, 27, 3, 0, 10.0000, 63.3333),
    "color": (24, 6, 19, 11, 0, 16.6667, 75.0000),
    "posters": (79, 68, 52, 95, 0, 20.4082, 79.5918),
    "celebrity": (39, 131, 80, 90, 0, 9.4118, 47.3529),
    "scene": (122, 78, 7, 193, 0, 58.0000, 136.7500),
    "landmark": (70, 129, 14, 186, 1, 29.5000, 93.5000),
    "artwork": (146, 54, 109, 91, 0, 28.0000, 87.2500),
    "OCR": (16, 4, 9, 11, 0, 40.0000, 107.5000),
    "commonsense_reasoning": (56, 10, 37, 26, 11, 28.5714, 87.1429),
    "numerical_calculation": (19, 1, 17, 3, 0, 10.0000, 65.0000),
    "text_translation": (0, 20, 1, 19, 0, 0.0000, 47.5000),
    "code_reasoning": (18, 2, 18, 2, 0, 0.0000, 50.0000),
}
"""TP, FN, FP, TN, other, 100 acc+, score."""
PERCEPTION = 963.6114445778312
COGNITION = 249.64285714285714


def write_golden(folder):
    """Fourteen files of results that give the published scores."""
    folder.mkdir(exist_ok=True)
    for task in TASKS:
        lines = []
        for number, (yes, no) in enumerate(_answers(task)):
            for truth, response in (("Yes", yes), ("No", no)):
                question = f"Is it? ({truth}) Please answer yes or no."
                lines.append(result_line(f"{number:04}.jpg", question, truth, response))
        (folder / f"{task.name}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def _answers(task):
    """The responses to the two questions of each image, of which yes is right first."""
    tp, fn, fp, tn, _, acc_plus, _ = COUNTS[task.name]
    num_images = task.num_images
    num_both = round(acc_plus * num_images / 100)
    yes_is_right = ["Yes"] * tp + ["No"] * fn + ["Maybe"] * (num_images - tp - fn)
    # From the image on from which no more than `num_both` are right twice.
    shift = tp - num_both
    no_is_right = ["No"] * tn + ["Yes"] * fp + ["Perhaps"] * (num_images - tn - fp)
    return zip(yes_is_right, _rotated(no_is_right, shift), strict=True)


def _rotated(items, places):
    """Begin so many places later, and wrap around."""
    return [items[(index - places) % len(items)] for index in range(len(items))]
