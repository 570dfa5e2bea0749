"""The app in a browser: texts explained live, methods compared, context reliance, tracked evaluations.

Needs the extra `app` (gradio), which is imported when the app starts and not before.
"""
