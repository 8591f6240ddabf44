"""What Gradio keeps of a page does not grow with what the page is sent."""

import asyncio

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from ui import session_state


@pytest.fixture
def mended(monkeypatch):
    monkeypatch.setattr(SessionState, "__setitem__", SessionState.__setitem__)  # put back afterwards
    session_state.keep_numbers()


def test_a_list_that_is_updated_again_and_again_is_kept_once(mended):
    """A page of half an hour kept a thousand of them, and the server grew by 5 MB a minute."""
    with gr.Blocks() as page:
        rounds = gr.Dropdown(["pair"], value="pair")
        look = gr.Button()
        count = iter(range(100))
        look.click(lambda chosen: gr.update(choices=[chosen, str(next(count))]), rounds, rounds)
    state = SessionState(page)
    before = len(state.blocks_config.blocks), len(state.config_values)

    async def use() -> dict:
        for _ in range(10):
            answer = await page.process_api(page.fns[0], ["pair"], state=state)
        return answer

    answer = asyncio.run(use())
    assert (len(state.blocks_config.blocks), len(state.config_values)) == before
    assert answer["data"][0]["choices"] == [["pair", "pair"], ["9", "9"]]
    assert state[rounds._id].choices == [("pair", "pair"), ("9", "9")]
