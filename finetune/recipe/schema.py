"""The recipe: what a user may wish for, and nothing that follows from it.

No validator here assigns. What a wish leads to (micro batch, targets, offloads) is the plan's.
The text under each field is its documentation everywhere: here, in `finetune recipe schema`, in editors.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Discriminator, Field, PrivateAttr, Tag, model_validator
from pydantic_core import PydanticCustomError

from finetune.recipe.evaluation import Evaluate
from finetune.recipe.section import Columns, File, Section

Count = Annotated[int, Field(strict=True, ge=1, le=10**9)]
Share = Annotated[float, Field(strict=True, ge=0, lt=1)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
HubId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+$")]
HubIdOrFolder = Annotated[str, Field(pattern=r"^([./~].*|[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+)$")]
Family = Literal["linear_attention", "attention", "mlp", "experts"]
Tracker = Literal["tensorboard", "trackio", "wandb"]

FAMILIES: tuple[Family, ...] = get_args(Family)

MOST_EXAMPLES = 65_536
"""In one optimizer step."""

SET = "--set "
"""How the place of a key begins that was given on the command line."""


def _rows(path: Path) -> Path:
    """Refuses a share in quotes, which would be read as a file's name."""
    if re.fullmatch(r"[0-9.,]+\s*%?", path.name):
        raise PydanticCustomError("path_type", "a share is a number")
    return path


class Source(Section):
    """One of the sources that are learnt from: files of this machine, or a data set of the Hub."""

    path: File | None = None
    """A file, or a folder of them."""
    hub: HubId | None = None
    """A data set of the Hub, as owner/name."""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{1,128}$")] | None = None
    """Commit of the Hub's data set."""
    split: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "train"
    """Which part of the Hub's data set."""
    columns: Columns | None = None
    """As `data.columns`, for this source."""
    weight: Annotated[float, Field(strict=True, gt=0, le=100, allow_inf_nan=False)] = 1.0
    """How often each of its rows is learnt in an epoch; 0.5 takes half of them."""
    share: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    """Share of all training examples that it makes up, as general data against forgetting; none of it is held out."""
    license: Annotated[str, Field(min_length=1)] | None = None
    """Under which it may be used, such as cc-by-4.0; told on the card."""

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.path is None) == (self.hub is None):
            raise PydanticCustomError("one_place", "a source has a path or a hub")
        if self.share is not None and self.weight != 1.0:
            raise PydanticCustomError("one_measure", "a source has a weight or a share")
        return self


def _kind_of_source(given: Any) -> str:
    """Tells a list of sources from one that is described, and that from a file's name."""
    if isinstance(given, list | tuple):
        return "list"
    return "source" if isinstance(given, dict | Source) else "file"


OneSource = Annotated[Annotated[File, Tag("file")] | Annotated[Source, Tag("source")], Discriminator(_kind_of_source)]
Sources = Annotated[
    Annotated[File, Tag("file")]
    | Annotated[Source, Tag("source")]
    | Annotated[tuple[OneSource, ...], Field(min_length=1), Tag("list")],
    Discriminator(_kind_of_source),
]


class Data(Section):
    """What is learnt from."""

    train: Sources
    """A file of rows in any usual form, a folder of them, `{hub: owner/name}`, or a list of these; see docs/data.md."""
    eval: Annotated[File, AfterValidator(_rows)] | Annotated[float, Field(strict=True, ge=0, le=0.5)] = 0.05
    """A file or folder of held-out rows, or the share of `train` to hold out; 0 proves nothing."""
    columns: Columns | None = None
    """Which columns are what, where rows have others than ours: `{prompt: [context, question], completion: answer}`."""
    group: Annotated[str, Field(min_length=1)] | None = None
    """Column whose equal values (a customer, a document) stay together, learnt or held out."""
    max_length: Annotated[int, Field(strict=True, ge=16, le=2**20)] = 2048
    """Tokens of the longest example."""
    too_long: Literal["drop", "error", "truncate"] = "drop"
    """What happens to a longer one; `truncate` cuts whole turns from its end."""
    thinking: Literal["auto", "always", "never"] = "auto"
    """`auto` learns reasoning where rows have it, `always` demands it of every row, `never` leaves it out."""
    preserve_thinking: Flag = False
    """Keep the reasoning of earlier turns in the prompt, in training and ever after."""
    packing: Flag = False
    """Lay the examples of a step end to end, up to `max_length` tokens, instead of padding them; one GPU, or a CPU."""


class Lora(Section):
    """The adapter. Read by the methods `qlora` and `lora`."""

    rank: Annotated[int, Field(strict=True, ge=1, le=1024)] = 16
    """Inner dimension of each adapter; more learns more and holds more memory."""
    alpha: Positive | None = None
    """Scale of the adapter is alpha / rank. Default: twice the rank."""
    dropout: Share = 0.0
    """Share of adapter inputs dropped in training."""
    targets: Annotated[tuple[Family, ...], Field(min_length=1)] = FAMILIES
    """Families of linear layers that get an adapter; by default all that the base has."""
    expert_rank: Annotated[int, Field(strict=True, ge=1, le=1024)] | None = None
    """Rank of each routed expert's adapter. Default: `rank` over the experts that a token goes to."""
    router: Flag = False
    """Train the routers too, whole; saved in the adapter, and kept even by `train.router_aux_loss_coef`."""
    dora: Flag = False
    """Train the length of each weight row beside the adapter (DoRA); slower, and holds more memory."""
    rslora: Flag = False
    """Scale the adapter by alpha / sqrt(rank) instead of alpha / rank (rsLoRA); for high ranks."""


class Train(Section):
    """How it is learnt."""

    epochs: Annotated[float, Field(strict=True, gt=0, le=10_000, allow_inf_nan=False)] = 2.0
    """Passes over the training examples."""
    max_steps: Count | None = None
    """Stop after so many optimizer steps, whatever `epochs` says."""
    batch_size: Annotated[int, Field(strict=True, ge=1, le=MOST_EXAMPLES)] = 16
    """Examples in one optimizer step, counted over all GPUs."""
    learning_rate: Positive = 2e-4
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: Share = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm."""
    router_aux_loss_coef: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = None
    """Weight of the loss that is least where trained routers use all experts alike. Default: the base's own, 0.001."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 42
    """Order of the rows, initial adapters and dropout follow from it."""
    save_every: Count | None = None
    """Optimizer steps between checkpoints. Default: ten in a run."""
    keep_checkpoints: Count = 2
    """How many of the newest checkpoints stay on disk."""
    report_to: tuple[Tracker, ...] = ()
    """Dashboards that get the metrics too."""


class Memory(Section):
    """Forces a lever that the plan would pull by itself. `auto`, the default of all, is nearly always best."""

    spare: Annotated[float, Field(strict=True, ge=0, le=1024, allow_inf_nan=False)] = 0.0
    """GiB of the GPU that the plan leaves to others."""
    embeddings: Literal["auto", "device", "host"] = "auto"
    """Where the frozen input embedding lies; on the host it costs the GPU nothing."""
    head: Literal["auto", "full", "int8", "nf4"] = "auto"
    """Precision of the frozen output head. The one lever that changes numbers, so `auto` pulls it last."""
    checkpoints: Literal["auto", "device", "host"] = "auto"
    """Where the inputs wait that backward recomputes layers from."""
    recompute: Literal["auto", "layer", "halves"] = "auto"
    """What backward recomputes at a time: a layer, or its mixer and its feed-forward one after the other."""
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = "auto"
    """AdamW's states in float32, in 8 bits, or in 8 bits that can move to the host."""
    micro_batch: Count | None = None
    """Examples of one forward pass; divides `train.batch_size`. Default: what fits and is fastest."""


class Parallel(Section):
    """How several GPUs share the work."""

    zero: Annotated[int, Field(strict=True, ge=0, le=3)] | None = None
    """ZeRO's stage: 1 shares out AdamW's states, 2 gradients too, 3 frozen weights too. Default: what fits, up to 2."""
    expert: Count | None = None
    """Over how many neighbouring GPUs routed experts are spread. Default: 1, or the fewest with which they fit."""


class Recipe(Section):
    """All wishes of one run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Names the run folder. Default: the recipe's file name."""
    base: HubIdOrFolder
    """The model to start from: a Hub id such as Qwen/Qwen3.6-27B, or a local folder."""
    base_path: File | None = None
    """Where a Hub base already lies on disk."""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{1,128}$")] | None = None
    """Commit of the Hub base; a folder has none."""
    method: Literal["qlora", "lora", "full"] = "qlora"
    """`qlora` holds the base in 4 bits, `lora` in bf16, `full` trains every text weight."""
    system: str | None = None
    """System prompt for rows that have none; used again by `chat` and by exports."""
    data: Data
    lora: Lora = Lora()
    train: Train = Train()
    memory: Memory = Memory()
    parallel: Parallel = Parallel()
    evaluate: Evaluate = Evaluate()

    _places: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _typed: Mapping[str, str] = PrivateAttr(default_factory=dict)

    def typed(self, key: str) -> str:
        """Gives a path as it was typed, for the `fix` line of an error; else as it stands here."""
        section, _, name = key.rpartition(".")
        return self._typed.get(key) or str(getattr(getattr(self, section) if section else self, name))

    def was_typed(self, key: str) -> bool:
        """Tells whether a path was read from a file or a word, such as `data.train.1.path` in a list of sources."""
        return key in self._typed

    def words(self) -> str:
        """Writes the file and the overrides as they were typed, for a command in the `fix` line of an error."""
        file = self._places.get("", "RECIPE:1").rpartition(":")[0]
        typed = (place.removeprefix(SET) for place in self._places.values() if place.startswith(SET))
        return " ".join([shlex.quote(file), *map(override, typed)])

    def where(self, key: str) -> str:
        """Says where a key was written, as `file:line  key`, for the `where` line of an error."""
        return self._places.get(key) or self._places.get(key.rsplit(".", 1)[0]) or self._places.get("") or key

    def line(self, key: str, value: Any) -> str:
        """Writes a key with another value, for the `fix` line of an error: a line of the file, or an override."""
        return line(key, str(value), self.where(key) if key in self._places else "")


def line(key: str, shown: str, place: str) -> str:
    """Writes a key with its value to be copied: into the file, or onto the command line if it came from there."""
    return override(f"{key}={shown}") if place.startswith(SET) else f"{key}: {shown}"


def override(word: str) -> str:
    """Writes an override as a shell reads it: quoted where the shell would take its brackets, quotes or spaces."""
    return SET + shlex.quote(word)


def keys(section: type[Section] = Recipe, prefix: str = "") -> list[str]:
    """Lists every dotted key that a recipe may hold, in the order of the schema."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found += keys(kind, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def sections() -> list[str]:
    """Lists the names of the sections, in the order of the schema."""
    kinds = {name: field.annotation for name, field in Recipe.model_fields.items()}
    return [name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)]


def json_schema() -> dict[str, Any]:
    """Gives the JSON Schema of a recipe's file, for editors; there the name may be left out."""
    told = Recipe.model_json_schema()
    told["required"].remove("name")
    return told
