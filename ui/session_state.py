"""What Gradio keeps of each open page, and a fault of it (6.31).

An update of a component (`gr.update(choices=...)`) makes a new one, which is stored under the number of the
old one, but has a number of its own. The next event that reads it stores it under that, too. So each page
kept every list of rounds that it was ever sent: after half an hour a thousand components.
"""

from gradio.blocks import Block
from gradio.state_holder import SessionState


def keep_numbers() -> None:
    """From now on a component that takes another's place in a page takes its number, too."""
    store = SessionState.__setitem__

    def store_with_number(state: SessionState, key: int, value: object) -> None:
        if isinstance(value, Block):
            value._id = key
        store(state, key, value)

    SessionState.__setitem__ = store_with_number  # type: ignore[method-assign]
