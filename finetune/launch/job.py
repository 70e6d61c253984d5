"""What is to run, on how many GPUs; the same for every engine. It knows nothing of how an engine writes it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from finetune.errors import RecipeError
from finetune.hardware import wished
from finetune.hub import locate
from finetune.plan import problem, refusals
from finetune.recipe import Recipe
from finetune.recipe.secrets import find_secrets
from finetune.shape import is_shipped, read_shape

TIME = re.compile(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)")
"""`days-hours:minutes:seconds`, the days left out or not, as sbatch takes it."""

SOME_GPU = "h100"
"""Which they are is not known here, and decides no rule that is about their number."""

SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY)", re.IGNORECASE)

RESERVED = re.compile(r"PET_\w+|RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT|TORCHELASTIC_\w+")
"""Variables that torchrun or the engine sets for each process; Kubeflow refuses a job that sets `PET_*` itself.

Source: kubeflow/trainer 8c0f5059, pkg/constants/constants.go, TorchRunReservedEnvNames.
"""


@dataclass(frozen=True)
class Job:
    """One training and the GPUs it gets."""

    recipe: str
    """The recipe's file, as it was typed."""
    overrides: tuple[str, ...]
    """Words that follow `--set`."""
    runs: str
    """The folder of runs, which every node sees."""
    name: str
    """What the engine calls the job; the recipe's name by default."""
    nodes: int
    gpus_per_node: int
    cpus_per_gpu: int
    time: str
    """`[days-]hours:minutes:seconds`."""
    setup: tuple[str, ...] = ()
    """Lines of bash to run on each node before anything else, as they were typed."""
    venv: str = ""
    """The folder of the virtual environment that has finetune; none if empty."""
    env: tuple[tuple[str, str], ...] = ()
    """Variables of every process."""
    image: str = ""
    """A container's image; none if empty."""

    @property
    def num_gpus(self) -> int:
        """GPUs of all nodes, which is the number of processes."""
        return self.nodes * self.gpus_per_node

    @property
    def seconds(self) -> int:
        """The time in seconds."""
        matched = TIME.fullmatch(self.time)
        assert matched, "checked when the job was made"
        days, hours, minutes, seconds = (int(part or 0) for part in matched.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def words(self) -> tuple[str, ...]:
        """What `finetune train` and `finetune launch newest` are told: the recipe, its overrides, the runs."""
        wishes = tuple(word for each in self.overrides for word in ("--set", each))
        return (operand(self.recipe), *wishes, "--runs", self.runs)


def make_job(
    recipe: Recipe,
    typed: str,
    overrides: Sequence[str] = (),
    *,
    runs: str = "runs",
    name: str | None = None,
    nodes: int = 1,
    gpus_per_node: int = 8,
    cpus_per_gpu: int = 8,
    time: str = "24:00:00",
    setup: Sequence[str] = (),
    venv: str = "",
    env: Sequence[str] = (),
    image: str = "",
) -> Job:
    """Takes what was typed as a job, or says what of it no engine could carry out.

    Args:
        recipe: the loaded recipe.
        typed: its file as it was typed.
        overrides: words of the form `section.key=value`.
        env: words of the form `NAME=VALUE`.

    Raises:
        RecipeError: a word that no file may hold, a name that no engine takes, or a recipe that is not for these GPUs.
    """
    single = {"RECIPE": [typed], "--runs": [runs], "--image": [image], "--venv": [venv]}
    for place, words in ({"--set": overrides, "--setup": setup} | single).items():
        check_words(place, words)
    if not TIME.fullmatch(time):
        why = "it is hours:minutes:seconds, with days before it or not: 12:00:00, 2-00:00:00"
        raise RecipeError(f"{time!r} is not a time", where=f"--time {time}", why=why, fix="--time 24:00:00")
    check_name("--name", name)
    check_sharing(recipe, nodes * gpus_per_node, f"{nodes} x {gpus_per_node}")
    check_rules(recipe, nodes, gpus_per_node)
    return Job(
        typed,
        tuple(overrides),
        runs,
        name or recipe.name,
        nodes,
        gpus_per_node,
        cpus_per_gpu,
        time,
        tuple(setup),
        venv,
        tuple(_variable(word) for word in env),
        image,
    )


def check_sharing(recipe: Recipe, num_gpus: int, told: str) -> None:
    """Makes sure that each GPU gets the same number of a batch's examples.

    Raises:
        RecipeError: the batch cannot be shared; it names the nearest batches and the numbers of GPUs that work.
    """
    batch = recipe.train.batch_size
    if batch % num_gpus == 0:
        return
    below, above = batch // num_gpus * num_gpus, (batch // num_gpus + 1) * num_gpus
    batches = [recipe.line("train.batch_size", size) for size in (below, above) if size]
    shared = [str(gpus) for gpus in range(1, min(batch, 2 * num_gpus) + 1) if batch % gpus == 0]
    raise RecipeError(
        f"{num_gpus} GPUs ({told}) cannot share a batch of {batch}",
        where=recipe.where("train.batch_size"),
        why=f"each takes the same number of examples; {batch} is shared by {', '.join(shared)} GPUs",
        fix=" or ".join(batches),
    )


def check_rules(recipe: Recipe, nodes: int, gpus_per_node: int) -> None:
    """Refuses what no plan for so many GPUs could make right, as far as the base's shapes are known here.

    Raises:
        RecipeError: naming each rule that the recipe breaks, and the way out.
    """
    base = locate(recipe.base, recipe.base_path, recipe.revision)
    if base is None and not is_shipped(recipe.base):
        return
    machines = replace(wished(f"{SOME_GPU}x{gpus_per_node}"), processes=nodes * gpus_per_node, nodes=nodes)
    broken = refusals(recipe, read_shape(recipe.base, base), machines)
    if broken:
        raise RecipeError.of(problem(recipe, refusal) for refusal in broken)


def check_words(place: str, words: Iterable[str]) -> None:
    """Refuses what cannot stand on one line of a script, or must not stand in a file at all.

    Raises:
        RecipeError: a control character such as a line's end, bytes that are not UTF-8, or an access token.
    """
    for word in words:
        # control characters, what is no character, and separators of lines and paragraphs
        odd = next((letter for letter in word if re.match("C|Zl|Zp", unicodedata.category(letter))), None)
        if odd is not None:
            raise RecipeError(
                "a job's file cannot hold this",
                where=f"{place} {word!a}",
                why=f"it holds {odd!a}, and a command is one line of text",
                fix="write it into the recipe instead" if place == "--set" else "give it a plain name",
            )
        if find_secrets(word, {"": place}):
            raise RecipeError(
                "this looks like a secret",
                where=place,
                why="a job's file is shared, and a cluster shows it to others",
                fix="revoke it where it was made; hf auth login on the cluster, or --secret where there is one",
            )


def operand(file: str) -> str:
    """Names a file so that no command takes it for an option, which a hyphen at its head would make of it."""
    return f"./{file}" if file.startswith("-") else file


def check_name(place: str, name: str | None, pattern: str = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}") -> None:
    """Refuses a name that an engine would read as something else.

    Raises:
        RecipeError: it is not of the pattern.
    """
    if name is not None and not re.fullmatch(pattern, name):
        plain = re.sub(r"[^A-Za-z0-9]+", "-", name.encode("ascii", "ignore").decode()).strip("-").lower() or "legal"
        raise RecipeError(
            f"{name!a} is not a name", where=place, why=f"a name is of the form {pattern}", fix=f"{place} {plain[:40]}"
        )


def _variable(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise RecipeError("this is not a variable", where=f"--env {word!a}", why="it is NAME=VALUE", fix="--env A=b")
    check_words("--env", [word])
    if SECRET_NAME.search(name):
        raise RecipeError(
            f"{name} is a secret by its name",
            where=f"--env {name}",
            why="a job's file is shared, and a cluster shows it to others",
            fix="hf auth login on the cluster, or --secret where there is one",
        )
    if RESERVED.fullmatch(name):
        why = "torchrun tells it to each process, another value in each"
        raise RecipeError(f"{name} is not yours to set", where=f"--env {name}", why=why, fix="leave it out")
    return name, value
