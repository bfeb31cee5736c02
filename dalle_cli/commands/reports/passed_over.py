"""What a search for pictures passed over, so that nothing is left out in silence."""

from dalle_cli.console import Terminal
from dalle_cli.data.picture_lists import PictureList
from dalle_cli.data.sources import describe_unread


def tell_passed_over(found: PictureList, terminal: Terminal) -> None:
    """Print which files are not read, and warn of those that could not be opened."""
    if found.unread:
        terminal.say(f"not read: {describe_unread(found.unread)}")
    terminal.warn_about(found.problems)
