"""The proxies that the environment names. Torch-free, and imports nothing that reads them."""

from urllib.request import getproxies

from thinkswitch.errors import UserError

SCHEMES = ("http", "https", "socks5", "socks5h")  # what httpx can talk to


def refuse_unusable_proxies() -> None:
    """Raises UserError if HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is of a kind that httpx cannot use.

    It would raise ValueError wherever a client is made: Gradio makes one when it is imported.
    """
    named = getproxies()
    for kind in named.keys() & {"http", "https", "all"}:
        scheme, separator, _ = named[kind].partition("://")
        if separator and scheme.lower() not in SCHEMES:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise UserError(
                f"{kind.upper()}_PROXY names a proxy of the kind {scheme}://, which cannot be used here; "
                f"these can: {known}; correct it or unset it"
            )
