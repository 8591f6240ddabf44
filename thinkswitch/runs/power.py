"""What the GPU draws."""

import shutil
import subprocess


def gpu_watts() -> float | None:
    """What the NVIDIA cards draw now, together; None where there is none, or none that tells."""
    if not shutil.which("nvidia-smi"):
        return None
    try:
        said = subprocess.run(["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=5)
        return sum(map(float, said.stdout.split())) if said.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):  # "[N/A]" on some laptops
        return None
