"""What accompanies exported weights: metadata inside the file, and a model card beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from stages.core.dataset import training_captions
from stages.core.params import Params
from stages.core.strategy import chosen
from stages.files import model_lock
from stages.files.artifact import to_json
from stages.runtime.formatting import counted, escape, in_markdown
from stages.tools.exchange.formats import Format
from stages.tools.exchange.own_files import RUN_KEY
from stages.tools.exchange.source import Origin

FULL = "full"  # stands for the rank of full matrices


def metadata(params: Params, origin: Origin, form: Format, rank: str, sha256: str) -> dict[str, str]:
    """Metadata that kohya's scripts, A1111, ComfyUI and model hubs read; it holds no timestamps.

    Args:
        params: the study's parameters.
        origin: the exported weights.
        form: the file format.
        rank: the rank as text, or FULL.
        sha256: `content_hash` of the tensors.
    """
    known, training, facts = params.family.known_as, origin.training, origin.facts
    prompts = {d["concept"]["name"]: _captions(d) for d in origin.data}
    entries: dict[str, Any] = {
        "ss_v2": "False",
        "ss_base_model_version": known.version,
        "ss_sd_model_name": _base_folder(params),
        "ss_network_module": known.network,
        "ss_network_dim": rank if rank != FULL else None,
        "ss_network_alpha": rank if rank != FULL else None,
        "ss_network_args": json.dumps({}),
        "ss_output_name": origin.name,
        "ss_tag_frequency": json.dumps(prompts, sort_keys=True),
        "ss_resolution": f"({params.prepare.resolution}, {params.prepare.resolution})",
        "ss_seed": facts.get("seed"),
        "ss_max_train_steps": training.get("steps"),
        "ss_learning_rate": training.get("learning_rate"),
        "ss_lr_scheduler": training.get("schedule"),
        "ss_total_batch_size": training.get("batch"),
        "ss_num_train_images": sum(len(d["pictures"]["training"]) for d in origin.data) or None,
        "sshs_model_hash": sha256,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{known.architecture}/lora",
        "modelspec.implementation": known.implementation if form == "kohya" else "diffusers",
        "modelspec.title": origin.title,
        "modelspec.resolution": f"{params.prepare.resolution}x{params.prepare.resolution}",
        "modelspec.hash_sha256": f"0x{sha256}",
        "modelspec.trigger_phrase": ", ".join(origin.triggers),
        "modelspec.license": licence(params, origin),
        "modelspec.author": origin.terms("author"),
        "modelspec.merged_from": ", ".join(d["concept"]["name"] for d in origin.data) if len(origin.data) > 1 else None,
        RUN_KEY: origin.name,
        "palimpsest.what": origin.what,
        "palimpsest.base": facts["base"],
        "palimpsest.strategy": json.dumps(facts["strategy"], sort_keys=True) if "strategy" in facts else None,
    }
    return {key: str(value) for key, value in entries.items() if value not in (None, "")}


def _captions(data: Mapping[str, Any]) -> dict[str, int]:
    captions = training_captions(data)
    return {caption: captions.count(caption) for caption in captions}


def _base_path(params: Params) -> str:
    return str(params.base.options.get("path", params.base.name))


def _base_folder(params: Params) -> str:
    return PurePath(_base_path(params)).name


def licence(params: Params, origin: Origin) -> str:
    """The licences that apply to the weights: of the base weights themselves, an imported adapter, and the pictures."""
    terms = model_lock.origin_and_licence(_base_path(params), model_lock.project_lock())
    parts = [f"base model: {terms[1] if terms else 'unknown'}"]
    if origin.adopted:
        author = f" by {name}" if (name := origin.terms("author")) else ""
        parts += [f"imported adapter{author}: {origin.terms('license', 'licence') or 'unknown'}"]
    return "; ".join(parts + ([f"pictures: {', '.join(origin.licences)}"] if origin.licences else []))


def model_card(params: Params, origin: Origin, file: str, form: Format, contents: str, picture: str | None) -> str:
    """The model card: a README in the format of model hubs.

    Args:
        params: the study's parameters.
        origin: the exported weights.
        file: the name of the file of weights.
        form: its format.
        contents: one sentence about the numbers in the file.
        picture: the name of the contact sheet beside it, if there is one.
    """
    parts = [_front(params, origin), f"# {escape(origin.title)}"]
    parts += [f"![Every concept after each task](<{picture}>)"] if picture else []
    parts += [_about(origin), f"## File\n\n{escape(file)}: {escape(contents)}", _usage(params, origin, file, form)]
    if origin.adopted and origin.terms("trigger_phrase", "trigger_words"):
        parts += [f"Trigger words of the imported adapter: {escape(origin.triggers[0])}."]
    if origin.data:
        parts += ["## Trigger words", in_markdown(_words(origin)), "Prompts used for sampling:"]
        parts += ["\n".join(f"- {escape(p)}" for d in origin.data for p in d["concept"]["prompts"])]
    parts += [
        "## Training",
        in_markdown(_settings(params, origin)),
        "## Licences",
        escape(licence(params, origin)) + ".",
    ]
    if credits := _credits(origin):
        parts += ["Training pictures:", "\n".join(credits)]
    return "\n\n".join(parts) + "\n"


def _front(params: Params, origin: Origin) -> str:
    """The YAML front matter; strings are written as JSON, which is valid YAML for any content."""
    model = model_lock.model_at(_base_path(params), model_lock.project_lock())
    lines = ["---", "tags:", *(f"- {tag}" for tag in ("lora", "text-to-image", "palimpsest"))]
    lines += [f"license: other\nlicense_name: {json.dumps(licence(params, origin))}"]
    lines += [f"base_model: {json.dumps(model.repo if model else _base_folder(params))}"]
    lines += [f"instance_prompt: {json.dumps(', '.join(origin.triggers))}"] if origin.triggers else []
    return "\n".join([*lines, "---"])


def _about(origin: Origin) -> str:
    return _description(origin) + (" It also changes the text encoders: load it into them too." if origin.text else "")


def _description(origin: Origin) -> str:
    if origin.what == "state":
        return f"The change of the base model after {counted(len(origin.data), 'concept')}, learned one after another."
    if origin.partial:
        return (
            "The adapter of a single task. It was trained on top of the state after the previous tasks, so it alone is "
            "not the model after its task; export the state for that."
        )
    if not origin.data:
        return "An adapter trained elsewhere."
    if len(origin.data) > 1 or origin.adopted:
        before = " It began as an adapter trained elsewhere." if origin.adopted else ""
        return f"One adapter of the base model that holds {counted(len(origin.data), 'concept')}.{before}"
    return "One adapter, trained on the base model."


def _usage(params: Params, origin: Origin, file: str, form: Format) -> str:
    if form == "kohya":
        folders = "ComfyUI: put it into `models/loras`; A1111 and Forge: into `models/Lora`"
        return f"{folders}. Use strength 1."
    prompt = origin.data[-1]["concept"]["prompts"][0] if origin.data else "..."
    lines = [
        f'pipeline.load_lora_weights(".", weight_name={json.dumps(file)})',
        f"pipeline({json.dumps(prompt)}, num_inference_steps={params.sample.steps})",
    ]
    code = "\n".join(lines).replace("`", "\\u0060")  # so that no backtick can end the block
    return f"```python\n{code}\n```"


def _words(origin: Origin) -> Sequence[Sequence[str]]:
    rows = [["concept", "trigger", "training prompt", "pictures"]]
    for data, trigger in zip(origin.data, origin.words, strict=True):
        name, prompt = data["concept"]["name"], data["concept"]["training_prompt"]
        rows.append([escape(name), escape(trigger), escape(prompt), str(len(data["pictures"]["training"]))])
    return rows


def _settings(params: Params, origin: Origin) -> Sequence[Sequence[str]]:
    facts = origin.facts
    strategy = facts.get("strategy", {})
    rows: dict[str, object] = {
        "base model": params.base.name,
        "revision": params.base.options.get("revision", ""),
        "starting adapter": PurePath(params.family.adapter).name if origin.data else "",
        "strategy": strategy.get("name", ""),
        "regime": _regime(strategy),
        **{f"strategy: {key}": value for key, value in strategy.get("options", {}).items()},
        **{key: facts[key] for key in ("domain", "order", "seed") if key in facts},
        **{key: value for key, value in origin.training.items() if key != "checkpoint_every"},
        "resolution": f"{params.prepare.resolution} pixels" if origin.data else "",
        "imported from": to_json(origin.adopted["file"]).strip() if origin.adopted else "",
    }
    return [["setting", "value"], *([escape(key), escape(value)] for key, value in rows.items() if value != "")]


def _regime(named: Mapping[str, Any]) -> str:
    """What the strategy may know of earlier tasks, under the options that it ran with."""
    if "options" not in named:
        return ""
    return chosen(named["name"], named["options"] | {"is": named.get("is", named["name"])})[1].knows


def _credits(origin: Origin) -> list[str]:
    """Source and licence of every training picture; pictures that share both are on one line."""
    names_of: dict[str, list[str]] = {}
    for data in origin.data:
        for entry in data["pictures"]["training"]:
            terms = "; ".join(filter(None, (entry["source"], entry["licence"]))) or "source and licence not stated"
            names_of.setdefault(f"{data['concept']['name']}: {terms}", []).append(entry["name"])
    return [f"- {escape(terms)} ({', '.join(escape(name) for name in names)})" for terms, names in names_of.items()]
