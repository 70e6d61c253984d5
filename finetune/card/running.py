"""How to run a model as it was trained, with its template, thinking mode and system prompt; and how it was measured."""

from __future__ import annotations

import json
import shlex
from typing import Any

from finetune.card.results import tasks
from finetune.card.text import fenced, one_line
from finetune.provenance import Artifact, Facts
from finetune.shards import read_json

QUESTION = "Your question"

SAMPLING = {"temperature": "--temp", "top_k": "--top-k", "top_p": "--top-p", "min_p": "--min-p"}
"""Keys of generation_config.json, and what llama.cpp calls them."""


def how_to_run(facts: Facts, artifact: Artifact, repo: str | None) -> str:
    """Writes the section.

    Args:
        facts: of the run.
        artifact: whose card it is.
        repo: where it goes, as owner/name; without one the commands name a folder.
    """
    place = repo or f"./{facts.run.name}-{artifact}"
    parts = [_asked(facts)]
    if artifact == "gguf":
        parts += _gguf(facts, repo, place)
    else:
        parts += ["### transformers" + (" and PEFT" if artifact == "adapter" else ""), _python(facts, artifact, place)]
        parts += ["### vLLM", _vllm(facts, artifact, place)]
        if any(file.endswith(".gguf") for file in facts.files("gguf")):
            parts.append("For llama.cpp, LM Studio and Ollama, `finetune export` made GGUF files of the merged model.")
    parts += _as_measured(facts, artifact)
    return "\n\n".join(parts)


def _asked(facts: Facts) -> str:
    serving = facts.told["serving"]
    thinking = "**with** thinking" if serving["thinking"] else "**without** thinking (`enable_thinking=False`)"
    told = f"It was trained with the base's own chat template, to be asked {thinking}"
    told += ", the reasoning of earlier turns kept in the prompt" if serving["preserve_thinking"] else ""
    told += ", and with this system prompt." if serving["system"] else ", and without a system prompt."
    told += " Of how it answers when it is asked in another way, no figure of this page speaks."
    return f"{told}\n\n{fenced(serving['system'], 'text')}" if serving["system"] else told


def _as_measured(facts: Facts, artifact: Artifact) -> list[str]:
    """Tells how the answers that were scored were drawn, which is not how the commands draw them."""
    answered = [task for task in tasks(facts) if task["kind"] != "loss"]
    samplings = [side["sampling"] for side in facts.evaluation["sides"].values()] if facts.evaluation else []
    if not answered or not samplings:
        return []
    most = samplings[0]["max_new_tokens"]
    longer = "; tasks of lm-evaluation-harness may have allowed more" if any("harness" in t for t in answered) else ""
    drawn = ", ".join(f"{key} {value}" for key, value in _sampling(facts).items())
    base = f"The base's own sampling is {drawn}: " if drawn else "What a runtime does by default may be otherwise: "
    how = {
        "adapter": f"transformers `do_sample=False, max_new_tokens={most}` in `generate`, "
        f'vLLM `"temperature": 0, "max_tokens": {most}` in the request',
        "gguf": f"llama.cpp `--temp 0 -n {most}`, "
        f"Ollama `/set parameter temperature 0` and `/set parameter num_predict {most}`",
    }
    return [
        "### As it was measured",
        f"Answers were measured greedily, at most {most} tokens each{longer}. {base}the results are not about answers "
        f"that are drawn so. To ask it as it was measured: {how['gguf' if artifact == 'gguf' else 'adapter']}.",
    ]


def _messages(facts: Facts) -> list[dict[str, str]]:
    system = facts.told["serving"]["system"]
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": QUESTION}]


def _switches(facts: Facts) -> dict[str, bool]:
    """What the template is told."""
    serving = facts.told["serving"]
    kept = {"preserve_thinking": True} if serving["preserve_thinking"] else {}
    return {"enable_thinking": bool(serving["thinking"]), **kept}


def _python(facts: Facts, artifact: Artifact, place: str) -> str:
    base = json.dumps(facts.base_id or "PATH-OF-THE-BASE")
    at = f", revision={json.dumps(facts.revision)}" if facts.revision else ""
    of = f"{base}{at}" if artifact == "adapter" else json.dumps(place)
    lines = [
        *(["from peft import PeftModel"] if artifact == "adapter" else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({of})",
        f'model = AutoModelForCausalLM.from_pretrained({of}, dtype="bfloat16", device_map="auto")',
        *([f"model = PeftModel.from_pretrained(model, {json.dumps(place)})"] if artifact == "adapter" else []),
        f"messages = {json.dumps(_messages(facts), ensure_ascii=False)}",
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt",',
        f"    {', '.join(f'{name}={value}' for name, value in _switches(facts).items())},",
        ").to(model.device)",
        "answer = model.generate(**inputs, max_new_tokens=1024)",
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))',
    ]
    told = fenced("\n".join(lines), "python")
    if artifact == "adapter" and facts.recipe.method == "qlora":
        told += "\n\nIt was trained over the base in 4 bits (NF4); over bfloat16, as here, answers differ by rounding."
    return told


def _vllm(facts: Facts, artifact: Artifact, place: str) -> str:
    if artifact == "adapter":
        told = "vLLM serves the merged model, or this adapter in its own layout, which `finetune export --vllm` writes."
        return f"{told} Ask it with `chat_template_kwargs` {_inline(_switches(facts))}."
    asked = {"model": place, "messages": _messages(facts), "chat_template_kwargs": _switches(facts)}
    return fenced(
        f"vllm serve {shlex.quote(place)}\n"
        "curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(asked, ensure_ascii=False))}",
        "bash",
    )


def _gguf(facts: Facts, repo: str | None, place: str) -> list[str]:
    """Tells of Ollama and llama.cpp; the template in the file has the thinking mode set."""
    name = facts.run.name.lower()
    fetched = f"hf download {repo} --local-dir {shlex.quote(place.rpartition('/')[2])}\n" if repo else ""
    folder = place.rpartition("/")[2] if repo else place
    has_modelfile = "Modelfile" in facts.files("gguf")
    kinds = [file for file in facts.files("gguf") if file.endswith(".gguf") and not file.startswith("mmproj-")]
    one = f"{folder}/{kinds[0]}" if kinds else f"{folder}/FILE.gguf"
    made = f"ollama create {name} -f {shlex.quote(f'{folder}/Modelfile')}\nollama run {name}"
    sampling = " ".join(f"{SAMPLING[key]} {value}" for key, value in _sampling(facts).items())
    system = facts.told["serving"]["system"]
    return [
        "### Ollama",
        fenced(f"{fetched}{made}", "bash")
        if has_modelfile
        else "No Modelfile was made: `finetune export RUN` writes one.",
        "### llama.cpp and LM Studio",
        fenced(f"{fetched}llama-server -m {shlex.quote(one)} --jinja {sampling}".rstrip(), "bash"),
        "The template in the files has the thinking mode of the training set, so no switch is needed."
        + (" The system prompt is not in them: send it as the first message." if system else ""),
    ]


def _sampling(facts: Facts) -> dict[str, Any]:
    """Reads the base's sampling, which the tuned model keeps."""
    for folder in (facts.run.merged, facts.base):
        if folder and (folder / "generation_config.json").is_file():
            told = read_json(folder / "generation_config.json", "the base's sampling")
            return {key: told[key] for key in SAMPLING if isinstance(told.get(key), int | float)}
    return {}


def _inline(value: dict[str, bool]) -> str:
    return f"`{one_line(json.dumps(value))}`"
