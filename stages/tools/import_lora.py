"""Imports a LoRA trained elsewhere: `python -m stages.tools.import_lora my_lora.safetensors --to adapters/my_lora`.

reads   a LoRA in kohya, diffusers or peft format, trained for the kind of base model in params.yaml
writes  an adapter as stages.train writes it: adapter.safetensors and a manifest

The file is untrusted: pickles are refused, numbers must be finite, and modules and shapes must match the base exactly.
The result can be exported in any format: `python -m stages.tools.export adapters/my_lora --format diffusers --to ...`.
A study starts from it if base.options has its folder as `adapter` and the hash printed here as `adapter_revision`.
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
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="a new folder, or an earlier import")
    parser.add_argument("--alpha", type=float, help="for a peft file without its adapter_config.json")


def import_lora(params: Params, key: None, args: argparse.Namespace) -> None:
    from stages.adapters.storage import save_adapter
    from stages.tools.exchange.importing import check_target, read_lora

    check_target(args.to)
    lora = read_lora(args.file, params.family, args.alpha)
    facts = {
        "family": params.base.name,
        "base": params.family.fingerprint,
        "scale": lora.adapter.scale,
        "adopted": {
            "file": args.file.name,
            "sha256": artifact.sha256(args.file),
            "format": lora.format,
            "metadata": dict(lora.metadata),
        },
    }
    for warning in lora.warnings:
        log.warning("%s: %s", args.file, warning)
    with artifact.publish(args.to, "adapter", facts) as draft:
        save_adapter(draft / "adapter.safetensors", lora.adapter)
    rank = next(iter(lora.adapter.a.values())).shape[0]
    size = f"{len(lora.adapter.a)} modules of rank {rank}, scale {lora.adapter.scale:g}"
    print(f"{args.to}: {size}, from {lora.format}; its revision is {artifact.folder_digest(args.to)}")


if __name__ == "__main__":
    main(__doc__, import_lora, None, more=arguments)
