"""A checkbox that people see as an accordion."""

import gradio as gr


class InputAccordion(gr.Checkbox):
    def __init__(self, value, *, label, elem_id):
        super().__init__(value, label=label, elem_id=f"{elem_id}-checkbox", visible=False)
        # Needs blocks around it, as the host's does.
        self.change(fn=None, _js="(open) => open", inputs=[self])
        self.accordion = gr.Accordion(label, open=value, elem_id=elem_id, elem_classes=["input-accordion"])

    def get_block_name(self):
        return "checkbox"

    def extra(self):
        return gr.Column(elem_id=f"{self.accordion.elem_id}-extra", min_width=0)

    def __enter__(self):
        self.accordion.__enter__()
        return self

    def __exit__(self, *exc):
        self.accordion.__exit__(*exc)
