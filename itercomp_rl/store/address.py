"""What may stand in a store's URL: a place, never a secret, as the URL is written to configs, logs and lineage."""

import re
from urllib.parse import urlsplit

CREDENTIALS_WAY_OUT = (
    "give the place alone, and credentials by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a role of "
    "the machine, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY)"
)


def is_url(address: str) -> bool:
    """Whether an address begins with a scheme, as s3://... does, and is no path of a local disk."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", address) is not None


def secret_part(url: str) -> str | None:
    """The part of a URL where credentials would stand, in words and without them; None if it has no such part."""
    if "://" not in url:
        return None
    parts = urlsplit(url)
    if "@" in parts.netloc:
        return "a user name or password before '@'"
    if parts.query or parts.fragment:
        return "a query or fragment"  # signed URLs and access tokens
    return None
