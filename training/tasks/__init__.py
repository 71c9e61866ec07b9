"""The tasks: one LightningModule each, and a row of ``TASKS``.

A new task is a module with a class of recipe (``training.config.Recipe`` with sections of its own), a ``Task``
(``training.tasks.base``), a function that opens its data and one that says what is wrong with them, and a row here.
"""

from __future__ import annotations

from typing import Any

from training.config import DistillRecipe
from training.tasks.base import TaskKind
from training.tasks.cyclegan import CycleGanTask, CycleRecipe
from training.tasks.distill import DistillTask, open_pairs, pair_faults
from training.tasks.gan import GanRecipe, GanTask, gan_faults
from training.tasks.personalize import PicturesRecipe, PicturesTask, TeacherRecipe, TeacherTask
from training.tasks.together import TogetherRecipe, TogetherTask, open_together, together_faults
from training.tasks.unpaired import folder_faults, open_folders

#: What the key ``task`` of a recipe chooses from.
TASKS: dict[str, TaskKind[Any]] = {
    "distill": TaskKind(recipe=DistillRecipe, make=DistillTask, samples=open_pairs, faults=pair_faults),
    "together": TaskKind(recipe=TogetherRecipe, make=TogetherTask, samples=open_together, faults=together_faults),
    "gan": TaskKind(recipe=GanRecipe, make=GanTask, samples=open_folders, faults=gan_faults),
    "cyclegan": TaskKind(recipe=CycleRecipe, make=CycleGanTask, samples=open_folders, faults=folder_faults),
    "personalize": TaskKind(recipe=PicturesRecipe, make=PicturesTask, samples=open_folders, faults=folder_faults),
    "personalize-pairs": TaskKind(recipe=TeacherRecipe, make=TeacherTask, samples=open_pairs, faults=pair_faults),
}
