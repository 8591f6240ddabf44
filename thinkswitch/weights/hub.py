"""The Hub: what it has of a checkpoint, and downloading it. Headers first; weights once a pair is checked."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from thinkswitch.errors import UserError, first_line, list_some
from thinkswitch.proxies import refuse_unusable_proxies
from thinkswitch.weights.safetensors_reader import TensorInfo, checked_info

SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "README.md"]  # the last one has the licence
HEADERS_AT_ONCE = 8


def small_files(name: str, commit: str = "") -> Path:
    """Download everything but weights; returns the folder in the Hub's cache.

    A checkpoint that cannot be used is so refused before gigabytes of it arrive. `name` may end in @revision;
    `commit`, where it is known, comes before that.
    """
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    parts = repo.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith((".", "~")):
        raise UserError(
            f"{name} is neither an existing folder nor a Hub id such as Qwen/Qwen3-4B-Instruct-2507"
        )
    with hub_errors(f"{repo}@{commit}" if commit else name):
        wanted = commit or revision or None
        return Path(snapshot_download(repo, revision=wanted, allow_patterns=SMALL_FILES))


def repo_of(name: str) -> str:
    """`owner/name` of `owner/name@revision`."""
    return name.partition("@")[0]


def revision_of(name: str) -> str:
    """`revision` of `owner/name@revision`; empty if none is named."""
    return name.partition("@")[2]


def headers(name: str, folder: Path, files: list[str]) -> list[dict[str, TensorInfo]]:
    """The headers of files on the Hub, without their weights; of the commit whose config is in `folder`."""
    from huggingface_hub import parse_safetensors_file_metadata
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def header(file: str) -> dict[str, TensorInfo]:
        try:
            tensors = parse_safetensors_file_metadata(repo_of(name), file, revision=folder.name).tensors
        except RemoteEntryNotFoundError:
            raise UserError(missing_on_hub(name, file, sharded=len(files) > 1)) from None
        return {
            key: checked_info(name, key, found.shape, found.dtype, file) for key, found in tensors.items()
        }

    with hub_errors(name, folder, files), ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        return list(pool.map(header, files))


def has_file(name: str, folder: Path, files: list[str], file: str) -> bool:
    """Whether a repository has a file, in the commit that is in `folder`. `files`: all that hold weights."""
    from huggingface_hub import file_exists

    with hub_errors(name, folder, files):
        return file_exists(repo_of(name), file, revision=folder.name)


def missing_on_hub(name: str, file: str, sharded: bool) -> str:
    if sharded:
        return f"{name} lacks {file} on the Hub, which its index names; choose another checkpoint"
    return (
        f"{name} has no weights: {file} is missing on the Hub; pickled weights are never opened, "
        "convert them to safetensors"
    )


def fetch(name: str, folder: Path, files: list[str], all_files: list[str], size: float) -> None:
    """Download some weights of the commit that is in `folder`, with progress; `size` in bytes."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils import enable_progress_bars

    plural = "s" if len(files) > 1 else ""
    # For a person who waits for gigabytes, so it is printed, not logged; stdout is for results.
    print(f"fetching {name}: {len(files)} file{plural}, {size / 1e6:,.0f} MB", file=sys.stderr, flush=True)
    if not constants.HF_HUB_DISABLE_PROGRESS_BARS:
        enable_progress_bars("huggingface_hub.snapshot_download")  # silence_libraries() turned them off
    with hub_errors(name, folder, all_files):
        snapshot_download(repo_of(name), revision=folder.name, allow_patterns=files)


def missing_files(folder: Path, files: Sequence[str]) -> list[str]:
    return [file for file in files if not (folder / file).is_file()]


@dataclass(frozen=True)
class Missing:
    """The weights of a checkpoint or adapter that are not in its folder; perhaps none."""

    name: str
    folder: Path
    files: list[str]
    nbytes: float


def missing_weights(name: str, folder: Path, files: Sequence[str], tensors: Iterable[TensorInfo]) -> Missing:
    """`files`: all that hold weights; `tensors`: what their headers say is in them."""
    absent = missing_files(folder, files)
    return Missing(name, folder, absent, sum(info.nbytes for info in tensors if info.file in absent))


@contextmanager
def hub_errors(name: str, folder: Path | None = None, files: Sequence[str] = ()) -> Iterator[None]:
    """Turn what the Hub, the network or the disk raises into one sentence. `files`: all that hold weights."""
    try:
        refuse_unusable_proxies()
        yield
    except UserError:
        raise
    except Exception as error:  # httpx, hf_xet, a damaged header: the libraries below raise what they like
        raise UserError(explain(error, name, what_is_here(folder, files))) from error


def what_is_here(folder: Path | None, files: Sequence[str]) -> str:
    """How much of a checkpoint is on this machine, as the predicate of a sentence."""
    if folder is None:
        return "is no folder here"
    missing = missing_files(folder, files)
    if len(missing) == len(files):
        return "is here without its weights"
    return f"is here only in part, without {len(missing)} of its {len(files)} shards ({list_some(missing)})"


def explain(error: Exception, name: str, state: str) -> str:
    """What went wrong and what to do about it: one sentence for each cause. `state`: see `what_is_here`."""
    from huggingface_hub import constants, errors

    reason = first_line(error)
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated: ask for access at {constants.ENDPOINT}/{name}, then `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name}: the Hub has no such revision of it; name another commit, tag or branch"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{name} is no folder here, and the Hub has no such checkpoint, or none for you; "
            "check the spelling, or `hf auth login` if it is private"
        )
    if isinstance(error, errors.HFValidationError):
        return f"{name} {state}, and the Hub gave no more of it ({reason}); check the name"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if constants.HF_HUB_OFFLINE:
            return f"{name} {state}, and the Hub cannot be reached (HF_HUB_OFFLINE is set); unset it"
        cause = error.__cause__
        reason = first_line(cause) if isinstance(cause, Exception) else reason
        return f"{name} {state}, and the Hub cannot be reached ({reason}); check the name and the network"
    if isinstance(error, errors.HfHubHTTPError):
        if error.response.status_code in (401, 403):
            return f"{name} {state}, and the Hub gave no more of it ({reason}); `hf auth login` again"
    elif isinstance(error, OSError) and error.errno:
        return (
            f"{name} {state}, and the Hub's cache, {constants.HF_HUB_CACHE}, takes no more "
            f"({error.strerror}); make room, or set HF_HOME to a folder on another disk, and run this again"
        )
    return f"{name} {state}, and the Hub gave no more of it ({reason}); what is here is kept, run this again"
