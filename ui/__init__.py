"""The page: Gradio only, thin. One file per tab; `studio.py` is what the tabs share. The method lives in thinkswitch/."""

import os

# before gradio is imported: it would ask for its newest version and report that it was started
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
