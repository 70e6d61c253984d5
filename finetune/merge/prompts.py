"""What a merged model is asked in its proof: rows that training held out or, where there are none, a fixed text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.data import Dataset, prepare, read_held_out, renderer_of
from finetune.data.files import data_files
from finetune.data.sources import sources_of
from finetune.data.vocabulary import read_vocabulary
from finetune.errors import DataError
from finetune.recipe import Recipe
from finetune.run import Run, anew, manifest

MOST_TOKENS = 256
"""That are compared; each costs every model two operations a weight."""

MOST_BYTES = 32 * 2**20
"""Of the files of rows; larger ones are left alone, for reading them costs more than the proof does."""

TEXT = """\
The pump on line three stopped at noon. The log says that the valve was closed, and that nobody wrote down who had
closed it. What should the person on the line do first? Open the valve, wait until the pressure is above 40 bar, then
start the pump again; if it stops a second time, call the engineer. In French: « La pompe s'est arrêtée à midi. »
def median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
The integral of 2x from 0 to 3 is 9, since x squared is 9 at 3 and 0 at 0. A contract that names no date of its end
runs until one side gives notice, as clause 4 of the general terms says, unless clause 12 says otherwise.
"""


@dataclass(frozen=True)
class Prompts:
    """One row of tokens; every model compared sees the same."""

    ids: list[int]
    told: str
    """What they are, in words."""


def read_prompts(recipe: Recipe, base: Path) -> Prompts:
    """Lays held-out rows end to end, as training rendered them, up to a few hundred tokens.

    Raises:
        ArtifactError: the base has no tokenizer or template.
    """
    if _has_rows(recipe):
        renderer = renderer_of(recipe, base)
        ids: list[int] = []
        for row in read_held_out(recipe):
            for example in renderer.examples(row):
                ids += example.ids
            if len(ids) >= MOST_TOKENS:
                break
        if ids:
            return Prompts(ids[:MOST_TOKENS], f"{len(ids[:MOST_TOKENS])} tokens of held-out rows")
    (ids,) = read_vocabulary(base).encode([(TEXT, False)])
    return Prompts(ids[:MOST_TOKENS], f"{len(ids[:MOST_TOKENS])} tokens of a fixed text")


def read_dataset(run: Run, recipe: Recipe, folder: Path) -> Dataset:
    """Renders the rows of a run again, and makes sure that they are those of its training.

    Args:
        run: of them.
        recipe: of it.
        folder: of the base or of what was merged, with tokenizer and template.

    Raises:
        DataError: rows or template are not those of the training.
    """
    dataset = prepare(recipe, folder)
    if dataset.sha256 != manifest.read_begun(run.manifest)["contract"]["data"]:
        why, fix = "their hash stands in the manifest", f"put them back as they were, or train anew: {anew(run)}"
        raise DataError("the rows are not those of the training", where=recipe.where("data.train"), why=why, fix=fix)
    return dataset


def _has_rows(recipe: Recipe) -> bool:
    """Tells whether rows are held out, still there on this machine, and not too many to be read."""
    named = [source.path for source in sources_of(recipe) if source.path is not None]
    named += [recipe.data.eval] if isinstance(recipe.data.eval, Path) else []
    if recipe.data.eval == 0 or not named or not all(path.exists() for path in named):
        return False
    return sum(file.stat().st_size for path in named for file in data_files(path)) <= MOST_BYTES
