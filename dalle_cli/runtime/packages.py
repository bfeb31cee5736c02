"""Which optional packages are installed, without importing them."""

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """Return whether a package can be imported.

    Python takes a mere folder of its name, such as trackers leave in a run, for a package as well.
    """
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
