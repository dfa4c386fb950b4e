"""``netc cache``."""

from __future__ import annotations

import click


@click.group()
def cache() -> None:
    """Show or clear the cache of compiled code.

    It lies in the platform's folder for caches, or in NETC_CACHE_DIR, and holds at most NETC_CACHE_LIMIT MiB (512).
    """


@cache.command()
def info() -> None:
    """Show where the cache is and what it holds."""
    from ...runtime import cache as store
    found = store.info()
    click.echo(f"folder   {found.folder or '-'}")
    click.echo(f"entries  {found.entries:,}")
    click.echo(f"size     {_mebibytes(found.size)} of at most {_mebibytes(found.limit)}")
    if found.fault is not None:
        click.echo(f"not used: {found.fault}")


@cache.command()
def clear() -> None:
    """Remove all that the cache holds; it fills again by itself."""
    from ...runtime import cache as store
    click.echo(f"{store.clear():,} entries removed")


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
