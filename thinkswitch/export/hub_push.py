"""A finished export as a repository on the Hub.

The token is the one that huggingface_hub finds: HF_TOKEN, or what `hf auth login` has left. It is never asked
for, kept or shown here. A repository that exists is replaced only if an export of ours made it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkswitch import json_text
from thinkswitch.errors import UserError, first_line, list_some
from thinkswitch.export.destination import MADE_BY, foreign_files
from thinkswitch.proxies import refuse_unusable_proxies

READS_ONLY = ("read",)  # of a token's role, and of a member's role in an organization
OF_THE_HUB = {".gitattributes"}  # what a new repository may hold


@dataclass(frozen=True)
class Repository:
    """Where a push goes, as the Hub was when it was asked."""

    name: str  # owner/name
    private: bool
    commit: str | None = None  # of what is replaced; None: there is no such repository yet
    files: frozenset[str] = frozenset()  # what an earlier export has put there


def has_token() -> bool:
    """Whether there is one that can be sent; what a broken login of some other kind raises counts as none."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import OIDCError

    try:
        token = get_token()
    except OIDCError:
        return False
    return bool(token) and str(token).isascii()


def address(name: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def find_repository(name: str, private: bool) -> Repository:
    """Where a push to `owner/name` would go. Changes nothing.

    Raises UserError for a malformed name, no token, a name of somebody else's, and a repository that exists
    and was not made by an export of ours.
    """
    from huggingface_hub import HfApi, constants

    validate_name(name)
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{name} cannot be pushed to while HF_HUB_OFFLINE is set; unset it")
    if not has_token():
        raise UserError(
            "a push needs a token with write access, and there is none that can be used: `hf auth login`, or "
            "set HF_TOKEN; "
            f"{constants.ENDPOINT}/settings/tokens makes one"
        )
    api = HfApi()
    with push_errors(name):
        validate_owner(name, api.whoami())
        return look_at(api, name, private)


def validate_name(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"{name!r} cannot be a repository ({first_line(error)}); name it as owner/name"
        ) from None
    if name.count("/") != 1:
        raise UserError(f"{name!r} names no owner; name the repository as owner/name")


def validate_owner(name: str, me: dict[str, Any]) -> None:
    """`me`: what the Hub says of the token's owner."""
    token = (me.get("auth") or {}).get("accessToken") or {}
    if token.get("role") in READS_ONLY:
        raise UserError("your token may only read; make one with write access, then `hf auth login`")
    if cannot_write(token, name):
        raise UserError(
            f"your fine-grained token may not write to {name}; give it write access to repositories of "
            f"{name.partition('/')[0]}, then push again"
        )
    owner = name.partition("/")[0]
    roles = {org["name"]: org.get("roleInOrg") for org in me.get("orgs", [])}
    mine = [me["name"], *(org for org, role in roles.items() if role not in READS_ONLY)]
    if owner.lower() not in [each.lower() for each in mine]:
        raise UserError(
            f"no repository of {owner} is yours to write: your token may write to {list_some(mine)}; "
            "name one of these"
        )


def cannot_write(token: dict[str, Any], name: str) -> bool:
    """Whether a fine-grained token surely may not; the Hub says what it may, for each owner or repository."""
    rights = token.get("fineGrained") or {}
    if token.get("role") != "fineGrained" or not isinstance(rights.get("scoped"), list):
        return False
    places = (name.lower(), name.partition("/")[0].lower())
    allowed = list(rights.get("global") or [])
    for scope in rights["scoped"]:
        place = (scope.get("entity") or {}).get("name")
        if place is None or str(place).lower() in places:  # one without a name may be any
            allowed += scope.get("permissions") or []
    return not any(str(right).startswith("repo") and "write" in str(right) for right in allowed)


def look_at(api: Any, name: str, private: bool) -> Repository:
    """The repository of that name, or that there is none; a UserError if it is not to be replaced."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(name)
    except RepositoryNotFoundError:
        return Repository(name, private)
    files = {sibling.rfilename for sibling in found.siblings or []} - OF_THE_HUB
    foreign = sorted(files - files_of_ours(api, name, found.sha, files))
    if foreign:
        raise UserError(
            f"{address(name)} exists and holds what no export has written ({list_some(foreign)}), so nothing "
            "is pushed there; name another repository"
        )
    if private and not found.private:
        raise UserError(f"{address(name)} exists and is public; make it private there, or name another one")
    return Repository(name, found.private, found.sha, frozenset(files))


def files_of_ours(api: Any, name: str, commit: str, files: set[str]) -> set[str]:
    """The files in a repository that an export of ours lists as its own."""
    if "recipe.json" not in files:
        return set()
    path = api.hf_hub_download(name, "recipe.json", revision=commit)
    try:
        recipe = json_text.read(Path(path))
        return {*map(str, recipe["files"])} if recipe["made_by"] == MADE_BY else set()
    except (ValueError, KeyError, TypeError):
        return set()


def validate_folder(folder: Path) -> None:
    """Raise a UserError unless the folder is an export as it was written."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name that of an export")
    if not (folder / "recipe.json").is_file():
        raise UserError(f"{folder} is no export: recipe.json is missing; export a point first")
    foreign = foreign_files(folder)
    if foreign:
        raise UserError(
            f"{folder} holds what no export has written ({list_some(foreign)}); move that elsewhere, since "
            "all of a folder is pushed"
        )
    refuse_unnamed_base(folder)
    listed = json_text.read(folder / "recipe.json")["files"]
    missing = [name for name in listed if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {list_some(missing)}, which its recipe.json lists; export it again")


def is_hub_id(name: object) -> bool:
    if not isinstance(name, str) or name.startswith("."):
        return False
    try:
        validate_name(name)
    except UserError:
        return False
    return True


def refuse_unnamed_base(folder: Path) -> None:
    """A UserError for an adapter whose base is a folder of this machine: nobody else could load it."""
    config = folder / "adapter_config.json"
    if not config.is_file():
        return
    try:
        base = json_text.read(config)["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config} cannot be used: {first_line(error)}; export the adapter again") from None
    if not is_hub_id(base):
        raise UserError(
            f"{config} names its base as {base!r}, which is no Hub id; write that id into "
            "base_model_name_or_path, then push again"
        )


def push(folder: Path, there: Repository, on_publish: Callable[[], None] | None = None) -> str:
    """Upload an export in one commit; returns its address. Files that the Hub has already are not sent again.

    `on_publish` is called once all that is large has arrived; until then nothing can be seen on the Hub.
    Raises UserError. The folder stays as it is whatever happens.
    """
    # not upload_folder, which may make several commits: the first of them would be no export
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    validate_folder(folder)
    paths = {path.name: path for path in sorted(folder.iterdir())}
    gone = sorted(there.files - paths.keys())  # what an earlier export had and this one has not
    added = [CommitOperationAdd(name, path) for name, path in paths.items()]
    api = HfApi()
    with push_errors(there.name, "broke off and nothing was published"):
        if there.commit is None:
            api.create_repo(there.name, private=there.private)
        api.preupload_lfs_files(there.name, added, free_memory=False)
    if on_publish:
        on_publish()
    with push_errors(there.name, f"broke off at its end; see whether it is at {address(there.name)}"):
        api.create_commit(
            there.name,
            [*added, *(CommitOperationDelete(name) for name in gone)],
            commit_message="Upload an export of ThinkSwitch Studio",
            parent_commit=there.commit,  # refuse if somebody has pushed meanwhile
        )
    return address(there.name)


@contextmanager
def push_errors(name: str, outcome: str = "could not begin") -> Iterator[None]:
    """Turn what the Hub and the network raise into one sentence. `outcome`: of a push that ends here."""
    from huggingface_hub import errors

    try:
        refuse_unusable_proxies()
        yield
    except UserError:
        raise
    except errors.LocalTokenNotFoundError:
        raise UserError("a push needs a token: `hf auth login`, or set HF_TOKEN") from None
    except errors.HfHubHTTPError as error:
        raise UserError(refusal(name, error.response.status_code, first_line(error))) from error
    except Exception as error:  # httpx, hf_xet: the libraries below raise what they like
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise UserError(
            f"the push to {name} {outcome} ({without_token(first_line(cause))}); push it again: what has "
            "arrived is not sent again"
        ) from error


def refusal(name: str, status: int, reason: str) -> str:
    if status == 401:
        return "the Hub does not know your token; `hf auth login` again, or correct HF_TOKEN"
    if status == 403:
        return f"your token may not write to {name}; give it write access, or name another repository"
    if status == 404:
        return f"{name} is not on the Hub any more, or not for you; look at {address(name)}, then push again"
    if status in (409, 412):
        return f"{name} was made or changed meanwhile; look at {address(name)}, then push again"
    return f"the Hub refused the push to {name} ({without_token(reason)}); push it again"


def without_token(text: str) -> str:
    from huggingface_hub import get_token

    return text.replace(get_token() or "\0", "…")
