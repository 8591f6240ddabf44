"""Take a point to another tab. Its round, t and schedule become those of Compare, where Export takes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import escape

from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from ui.widgets.assets import asset
from ui.widgets.events import on
from ui.widgets.schedule_editor import Editor, TensorNames

Point = tuple[str, float, Schedule]  # round, t, schedule


@dataclass(frozen=True)
class PointTaker:
    editor: Editor
    schedule: gr.State
    tensor_names: TensorNames
    compare: dict  # what the tab returns

    def open(self, event: Callable, find: Callable[..., Point], inputs: list[Any], tab: str) -> None:
        """After `event`, open a tab at the point that `find` makes of the inputs. It may raise UserErrors."""

        def take(preview_t: float, *values):
            try:
                round_, t, schedule = find(*values)
            except UserError as error:  # and leave the tab as it is
                raise gr.Error(str(escape(str(error))), print_exception=False) from error
            place = {self.compare["round"]: round_, self.compare["t"]: t, self.schedule: schedule}
            told = self.editor.shown(schedule, preview_t, self.tensor_names())
            return {**place, **self.editor.filled(schedule), **told}

        outputs = [self.compare["round"], self.compare["t"], self.schedule]
        outputs += [*self.editor.values, *self.editor.told]
        taken = on(event, take, [self.editor.preview_t, *inputs], outputs)
        opened = on(taken.success, None, None, None, js=asset("open_tab.js").replace("NAME", tab))
        self.compare["changed"](opened.then)
