"""How much power this process's GPUs draw."""

import os
import shutil
import subprocess

from thinkswitch.remote.distributed import world_size

TIMEOUT_SECONDS = 5.0  # nvidia-smi usually takes 0.05 to 1 s


def gpu_watts() -> float | None:
    """Watts that the GPUs of this run draw now; None without an NVIDIA GPU, or if it does not report them."""
    devices = visible_devices()
    if not devices or not shutil.which("nvidia-smi"):
        return None
    query = ["--query-gpu=power.draw", "--format=csv,noheader,nounits", f"--id={','.join(devices)}"]
    try:
        done = subprocess.run(
            ["nvidia-smi", *query],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
        return sum(float(watts) for watts in done.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):  # ValueError: some laptops answer "[N/A]"
        return None


def visible_devices() -> list[str]:
    """Indices or UUIDs of the GPUs that this run uses: one for each of its processes.

    Without CUDA_VISIBLE_DEVICES they are the first ones in the driver's order.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index in range(world_size())]
    devices = []
    for device in visible.split(","):
        if device.strip() in ("", "-1"):  # CUDA ignores everything from an invalid one on
            break
        devices.append(device.strip())
    return devices[: world_size()]
