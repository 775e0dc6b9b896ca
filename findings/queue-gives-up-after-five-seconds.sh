#!/usr/bin/env bash
# gradio 3.41 (the WebUI's) runs a queued event by a request to its own server, through an httpx client whose timeout it never meant to be used:
# it builds the request by hand, without one. httpx 0.27.0 sends such a request without a limit; in 0.27.2 a request without a
# timeout gets the client's default of 5 seconds. gradio asks for "httpx" in any version, so with a newer one every event that takes longer
# than 5 seconds, which is every picture, is lost: the page is told that it failed, without a word why. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/slow.py" <<'PYTHON'
import sys
import time
import gradio as gr
import httpx
from gradio_client import Client

with gr.Blocks() as page:
    seconds, told = gr.Number(), gr.Textbox()
    gr.Button().click(lambda n: (time.sleep(n), "done")[1], seconds, told, api_name="wait")
page.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
client = Client(page.local_url, verbose=False)
told = []
for n in (1, 7):
    try:
        told.append(client.predict(n, api_name="/wait"))
    except Exception as error:
        told.append("lost: " + (str(error) or type(error).__name__))
print("gradio", gr.__version__, "httpx", httpx.__version__, "after 1 s:", told[0], "| after 7 s:", told[1], flush=True)
lost = told[1].startswith("lost")
page.close()
import os
os._exit(0 if told[0] == "done" and lost == (sys.argv[1] == "lost") else 1)
PYTHON
for pair in 0.24.1:kept 0.27.0:kept 0.27.2:lost; do
    python3 -m venv "$folder/${pair%:*}"
    "$folder/${pair%:*}/bin/pip" install --quiet "gradio==3.41.2" "gradio_client==0.5.0" "pydantic==1.10.27" "fastapi==0.94.0" \
        "starlette==0.26.1" "httpx==${pair%:*}" "numpy==1.26.4" "pandas==2.3.3" "pillow==10.4.0" "matplotlib==3.10.9" "websockets==11.0.3" "huggingface_hub==0.25.2"
    GRADIO_ANALYTICS_ENABLED=False "$folder/${pair%:*}/bin/python" "$folder/slow.py" "${pair#*:}"
done
