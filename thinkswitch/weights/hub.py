"""The Hub: what is there of a checkpoint, and how it comes here. Headers first; weights when a pair is known to fit."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from thinkswitch.errors import UserError, first_line, list_some


def small_files(name: str) -> Path:
    """The folder in the Hub's cache, with everything but weights: what cannot be used is refused before gigabytes of it arrive."""
    from huggingface_hub import snapshot_download

    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith((".", "~")):
        raise UserError(f"{name} is neither an existing folder nor a Hub id such as Qwen/Qwen3-4B-Instruct-2507")
    with hub_errors(name):
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.jinja", "*.txt", "*.model"]))


def headers(name: str, folder: Path, files: list[str]) -> list[list[tuple]]:
    """(name, shape, dtype) of all tensors, file by file, without their weights; of the commit whose config is in the folder."""
    from huggingface_hub import parse_safetensors_file_metadata
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def header(file):
        try:
            tensors = parse_safetensors_file_metadata(name, file, revision=folder.name).tensors
        except RemoteEntryNotFoundError:
            raise UserError(f"{name} lacks {file} on the Hub, which its index names; choose another checkpoint" if len(files) > 1 else
                            f"{name} has no weights: {file} is missing on the Hub; pickled weights are never opened, convert them to safetensors") from None
        return [(key, t.shape, t.dtype) for key, t in tensors.items()]

    with hub_errors(name, folder, files), ThreadPoolExecutor(8) as pool:
        return list(pool.map(header, files))


def fetch(name: str, folder: Path, files: list[str], all_files: list[str], size: float) -> None:
    """Some weights of the commit that is in the folder, with progress; `size` in bytes."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils import enable_progress_bars

    print(f"fetching {name}: {len(files)} file{'s' * (len(files) > 1)}, {size / 1e6:,.0f} MB", file=sys.stderr, flush=True)
    if not constants.HF_HUB_DISABLE_PROGRESS_BARS:
        enable_progress_bars("huggingface_hub.snapshot_download")  # transformers' disable_progress_bar() turned them off
    with hub_errors(name, folder, all_files):
        snapshot_download(name, revision=folder.name, allow_patterns=files)


def absent(folder: Path, files: list[str]) -> list[str]:
    return [f for f in files if not (folder / f).is_file()]


@contextmanager
def hub_errors(name: str, folder: Path | None = None, files: list[str] = ()) -> Iterator[None]:
    """What the Hub, the network or the disk has against it, as one sentence; of `files` it says which are there by now."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        yield
    except UserError:
        raise
    except GatedRepoError:
        raise UserError(f"{name} is gated: ask for access at {constants.ENDPOINT}/{name}, then `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(f"{name} is no folder here, and the Hub has no such checkpoint, or none for you; check the spelling, "
                        "or `hf auth login` if it is private") from None
    except Exception as error:  # httpx2, hf_xet, a damaged header: the libraries below raise what they like
        lost = absent(folder, files) if folder else []
        state = (f"is here only in part, without {len(lost)} of its {len(files)} shards ({list_some(lost)})" if len(lost) < len(files) else
                 "is here without its weights" if folder else "is no folder here")
        refused = error.response.status_code in (401, 403) if isinstance(error, HfHubHTTPError) else False
        if isinstance(error, OSError) and error.errno and not isinstance(error, HfHubHTTPError):
            raise UserError(f"{name} {state}, and the Hub's cache, {constants.HF_HUB_CACHE}, takes no more ({error.strerror}); make room, "
                            "or set HF_HOME to a folder on another disk, and run this again") from None
        if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
            why = "HF_HUB_OFFLINE is set); unset it" if constants.HF_HUB_OFFLINE else f"{first_line(error.__cause__ or error)}); check the name and the network"
            raise UserError(f"{name} {state}, and the Hub cannot be reached ({why}") from None
        advice = "check the name" if isinstance(error, HFValidationError) else "`hf auth login` again" if refused else "what is here is kept, run this again"
        raise UserError(f"{name} {state}, and the Hub gave no more of it ({first_line(error)}); {advice}") from error
