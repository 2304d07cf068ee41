"""Samples the model after one task, or the base. Reads the state (of the base: the data); writes images."""

import argparse
from pathlib import Path
from typing import Any

from stages.adapters.state import State
from stages.adapters.storage import load_state
from stages.core.command import main
from stages.core.params import Params
from stages.core.runs import Run, TaskSequence, provenance
from stages.core.states import initial_adapter
from stages.files import artifact
from stages.runtime.progress import track
from stages.sampling import reading, responses, sampler


def sample(params: Params, run: Run | TaskSequence, args: argparse.Namespace) -> None:
    """Publishes the pictures of a run after `args.task`; of the base, for a sequence."""
    task: str | None = getattr(args, "task", None)
    folder = run.at(task or "") if isinstance(run, Run) else run.base
    state, learned, parents = State(), [], {}
    if isinstance(run, Run):
        parents = {"state": folder / "state"}
        manifest = artifact.read(parents["state"], "state")
        state, learned = load_state(parents["state"], manifest, params.family.shapes()), manifest["tasks"]
    elif adapter := initial_adapter(params):
        state = State(adapter.delta)
    params = params.model_copy(update={"sample": params.sampling(getattr(run, "strategy", None))})
    tasks = sampler.sampled_concepts(params, run, task, learned)
    facts: dict[str, Any] = provenance(params, run) | {
        "sample": params.sample.model_dump(mode="json", exclude={"plain"}),
        "tasks": {f"{place:02d}": {"name": c["name"], "prompts": c["prompts"]} for place, c in tasks.items()},
    }
    if count := params.sample.plain:
        plain_tasks = {f"{place:02d}": {"name": c["name"], "prompts": c["plain_prompts"]} for place, c in tasks.items()}
        facts["plain"] = {"images": count, "tasks": plain_tasks}
    facts |= reading.sampled(params, tasks.values())
    with artifact.publish(folder / "images", "images", facts, parents) as draft:
        write(params, state, facts["tasks"], draft.path, draft)
        if count:
            plain = params.model_copy(update={"sample": params.sample.model_copy(update={"images": count})})
            write(plain, state, facts["plain"]["tasks"], draft / "plain", draft)
        responses.record(params, run, state, draft)


def write(params: Params, state: State, tasks: dict[str, Any], folder: Path, draft: artifact.Draft) -> None:
    """Writes a folder of pictures per task, <prompt>-<noise>.png; notes the batch if memory limited it."""
    batches = sampler.sample(params, state, [task["prompts"] for task in tasks.values()])
    for place, files in zip(tasks, track(batches, len(tasks), "sample"), strict=True):
        (folder / place).mkdir(parents=True)
        for number, file in enumerate(files):
            name = "{:02d}-{:02d}.png".format(*divmod(number, params.sample.images))
            (folder / place / name).write_bytes(file.read_bytes())
        if batch := artifact.read(files[0].parent, "pictures").get("micro_batch"):
            draft.note(micro_batch=min(batch, draft.facts.get("micro_batch", batch)))


if __name__ == "__main__":
    main(__doc__, sample, "run", base=True)
