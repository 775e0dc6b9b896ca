"""The extension's side that knows AUTOMATIC1111's WebUI: nothing else in this library imports `modules.*` or gradio."""
