"""Imports a LoRA trained elsewhere: `python -m stages.tools.import_lora my_lora.safetensors --to adapters/my_lora`.

reads   a LoRA in the format of kohya, diffusers or peft, trained for the kind of base that params.yaml names
writes  an adapter as stages.train would have left it: adapter.safetensors and its manifest

The file is trusted with nothing: no pickle, finite floats only, and exactly the modules and shapes of this base. What
is written can be exported in any format: `python -m stages.tools.export adapters/my_lora --format diffusers --to ...`,
and a study starts from it if base.options has its folder as `adapter` and the hash printed here as `adapter_revision`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.command import log, main
from stages.files import artifact

if TYPE_CHECKING:
    from stages.core.params import Params


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a .safetensors file")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="a new folder, or one written by this")
    parser.add_argument("--alpha", type=float, help="for a peft file that has lost its adapter_config.json")


def adopt(params: Params, key: None, args: argparse.Namespace) -> None:
    from stages.adapters.storage import save_adapter
    from stages.tools.exchange.importing import adopt as read_foreign
    from stages.tools.exchange.importing import vacant

    vacant(args.to)
    found = read_foreign(args.file, params.family, args.alpha)
    facts = {
        "family": params.base.name,
        "base": params.family.fingerprint,
        "scale": found.adapter.scale,
        "adopted": {
            "file": args.file.name,
            "sha256": artifact.sha256(args.file),
            "format": found.format,
            "metadata": dict(found.metadata),
        },
    }
    for warning in found.warnings:
        log.warning("%s: %s", args.file, warning)
    with artifact.publish(args.to, "adapter", facts) as draft:
        save_adapter(draft / "adapter.safetensors", found.adapter)
    rank = next(iter(found.adapter.a.values())).shape[0]
    size = f"{len(found.adapter.a)} modules of rank {rank}, scale {found.adapter.scale:g}"
    print(f"{args.to}: {size}, from {found.format}; its revision is {artifact.folder_digest(args.to)}")


if __name__ == "__main__":
    main(__doc__, adopt, None, more=arguments)
