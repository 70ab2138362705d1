"""`decentral doctor`: what this machine offers."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decentral import cores
from decentral.cli.output import JsonOption, say_json, say_table
from decentral.errors import UserError

TEE_DEVICES = {
    "Intel TDX guest": "/dev/tdx_guest",
    "AMD SEV-SNP guest": "/dev/sev-guest",
    "attestation reports (configfs)": "/sys/kernel/config/tsm/report",
}


def doctor(as_json: JsonOption = False) -> None:
    """Show what this machine offers.

    Cores, memory, accelerators, TEE devices and by which of them nodes would show evidence, and the data sets that
    recipes can use without a download.
    """
    found = {**_machine(), **_torch(), "tee": _tee(), **_attestation(), **_data()}
    if as_json:
        say_json(found)
    else:
        say_table(("what", "here"), [(name.replace("_", " "), _text(value)) for name, value in found.items()])


def _machine() -> dict[str, Any]:
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": cores.count(),
        "memory_gib": round(page * pages / 2**30, 1),
    }


def _torch() -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return {"torch": None, "torch_problem": str(error), "cuda": []}
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"torch": torch.__version__, "cuda": devices}


def _tee() -> list[str]:
    return [name for name, path in TEE_DEVICES.items() if Path(path).exists()]


def _attestation() -> dict[str, Any]:
    from decentral.attestation.host.backends import back_end, confidential_gpu

    found = back_end()
    return {"attestation": found.name, "attestation_by": found.note, "confidential_gpu": confidential_gpu()}


def _data() -> dict[str, Any]:
    from decentral.data.archives import data_root

    root = data_root()
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    return {
        "data_root": str(root),
        "data_root_writable": os.access(existing, os.W_OK | os.X_OK),
        "datasets": list(_datasets()),
    }


def _datasets() -> Iterator[str]:
    """Names of the data sets that a recipe could use as it is, without a download."""
    from decentral.data.datasets import DATASETS, load_dataset

    for name in DATASETS.names():
        try:
            load_dataset(name, verify=False)
        except UserError:
            continue
        yield name


def _text(value: object) -> str:
    match value:
        case None | []:
            return "none"
        case True | False:
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)
