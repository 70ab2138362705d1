"""What this machine would show evidence with, and why: nodes choose by the same."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from decentral.attestation.attester import Unattested
from decentral.attestation.host.configfs import PROVIDERS, Configfs

SIMULATOR = "simulator"
DEVICES = Path("/dev")
OLDER = {"tdx_guest": "Intel TDX", "tdx-guest": "Intel TDX", "sev-guest": "AMD SEV-SNP"}
"""Devices of guests, by which older kernels make reports as well, in ways that are not read here."""
MOUNTING = "Linux 6.7 or later does, with: mount -t configfs none /sys/kernel/config"
ASKING = 10.0
"""Seconds for a driver to answer."""


@dataclass(frozen=True, slots=True)
class BackEnd:
    """`name`: of the technology, in the words of recipes, or the simulator; `note`: by which way, or why none other."""

    name: str
    note: str


def back_end(configfs: Configfs | None = None, devices: Path = DEVICES) -> BackEnd:
    """Who makes evidence here. Blocking."""
    configfs = configfs or Configfs()
    if configfs.here:
        try:
            provider = configfs.provider()
        except Unattested as error:
            return BackEnd("none", f"the kernel makes reports, but not for this user: {error}")
        if (technology := PROVIDERS.get(provider)) is None:
            return BackEnd("none", f"the kernel makes reports of {provider}, which cannot be read here")
        return BackEnd(technology.value, f"by configfs-tsm, {provider}")
    for name, maker in OLDER.items():
        if (devices / name).exists():
            return BackEnd(SIMULATOR, f"this is a guest of {maker}, whose kernel offers no reports: {MOUNTING}")
    return BackEnd(SIMULATOR, "no confidential hardware that the kernel knows of")


def confidential_gpu() -> str | None:
    """Whether NVIDIA's GPUs compute confidentially, in the words of their driver; None without one. Blocking.

    What they show of themselves is not read here: no evidence of a node covers them.
    """
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    try:
        said = subprocess.run(
            [program, "conf-compute", "-f"], capture_output=True, text=True, timeout=ASKING, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({error})"
    words = " ".join((said.stdout or said.stderr).split())
    return words if not said.returncode and words else f"unknown ({words or f'exit code {said.returncode}'})"
