"""The page: Gradio only. One file per tab; `studio.py` is what they share. The method is in thinkswitch/."""

import os

# Disables Gradio's analytics and version check; must run before `import gradio`.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
