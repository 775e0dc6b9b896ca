"""A real WebUI as a process: its folder is A1111_ROOT, its Python A1111_PYTHON (or the one of its venv).

What most people's folder does not have is named apart, and the tests that need it are skipped without: A1111_SDXL and A1111_INPAINTING
are checkpoints, A1111_CONTROLNET is the folder of that extension, with models, and A1111_CONTROLNET_CHECKPOINT one that they fit.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parent.parent.parent
# Extensions for tests: what a U-Net was given, and jobs inside jobs.
OWN = Path(__file__).parent / "extensions"
SHIPPED = ("lib_accel", "scripts", "javascript", "localizations", "style.css", "install.py", "metadata.ini")
# All on the processor, so that pictures are the same bit for bit.
FLAGS = ["--use-cpu", "all", "--no-half", "--opt-sdp-attention", "--api", "--no-download-sd-model", "--no-hashing"]
SKIPS = ["--skip-prepare-environment", "--skip-install", "--skip-python-version-check", "--skip-torch-cuda-test", "--skip-version-check"]

# Seconds that a slow machine may take to start it.
WAIT = int(os.environ.get("A1111_WAIT", "300"))


def root() -> Path | None:
    named = os.environ.get("A1111_ROOT")
    return Path(named).resolve() if named and (Path(named) / "launch.py").exists() else None


def own_checkpoint() -> Path:
    """The one that the WebUI starts with where none is named."""
    return min((root() / "models" / "Stable-diffusion").glob("*.safetensors"))


def named(variable: str) -> Path | None:
    """What an environment variable names, if it is there."""
    path = Path(os.environ.get(variable) or "nothing")
    return path.resolve() if path.exists() else None


def tensors(checkpoint: Path) -> dict[str, list[int]]:
    """Shapes by name."""
    with checkpoint.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


# A small checkpoint has narrow texts: another extension says that these are SDXL's.
SAYS = """
from lib_accel.settings import model_families
model_families._BY_CONTEXT[{width}] = "sdxl"
"""


def says_sdxl(checkpoint: Path, folder: Path) -> Path:
    """The folder of an extension, made in ``folder``, that has ``checkpoint`` taken for SDXL."""
    [width, *_] = {shape[1] for name, shape in tensors(checkpoint).items() if name.endswith("attn2.to_k.weight")}
    scripts = folder / "zz-family" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "family.py").write_text(SAYS.format(width=width))
    return scripts.parent


def needs(variable: str) -> list[pytest.MarkDecorator]:
    """Marks for tests that need what ``variable`` names, too."""
    missing = root() is None or (variable != "A1111_ROOT" and named(variable) is None)
    return [pytest.mark.host, pytest.mark.skipif(missing, reason=f"{variable} names nothing, or A1111_ROOT no WebUI")]


class WebUI:
    """Started when made; its data are in ``data``, its checkpoints those of the folder. extension: whether ours is in use. flags: more
    of the WebUI's command line. checkpoint: the one to start with. others: folders of other extensions."""

    def __init__(
        self,
        data: Path,
        extension: bool = True,
        flags: Sequence[str] = (),
        checkpoint: Path | None = None,
        others: Sequence[Path] = (),
    ) -> None:
        folder = data / "extensions" / "sd-webui-accel"
        folder.mkdir(parents=True, exist_ok=True)
        for name in SHIPPED:
            copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copyfile
            if not (folder / name).exists():
                copy(PROJECT / name, folder / name)
        for other in others:
            shutil.copytree(other, data / "extensions" / other.name, dirs_exist_ok=True)
        own = root() / "venv" / "bin" / "python"
        python = os.environ.get("A1111_PYTHON") or (str(own) if own.exists() else "python3")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        places = ["--data-dir", str(data), "--ckpt-dir", str(root() / "models" / "Stable-diffusion"), "--port", str(port)]
        places += ["--ckpt", str(checkpoint)] if checkpoint else []
        more = [*flags] if extension else [*flags, "--disable-extra-extensions"]
        self.address = f"http://127.0.0.1:{port}"
        self.data = data
        # Of the last job, as data; None where it had none.
        self.account: dict[str, Any] | None = None
        self.log = (data / "log.txt").open("wb")
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COMMANDLINE_ARGS": "", "HF_HUB_OFFLINE": "1"}
        command = [python, "launch.py", *FLAGS, *SKIPS, *places, *more]
        self.process = subprocess.Popen(command, cwd=root(), env=environment, stdout=self.log, stderr=subprocess.STDOUT)
        self._wait(data)

    def _wait(self, data: Path) -> None:
        until = time.monotonic() + WAIT
        while time.monotonic() < until and self.process.poll() is None:
            # Its routes answer before all of them work; this line comes last.
            if b"Startup time" in (data / "log.txt").read_bytes():
                return
            time.sleep(1)
        self.stop()
        raise RuntimeError("The WebUI did not start: " + (data / "log.txt").read_text(errors="replace")[-2000:])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def get(self, path: str) -> tuple[int, Any]:
        return self._ask(urllib.request.Request(self.address + path))

    def post(self, path: str, body: dict) -> tuple[int, Any]:
        return self._ask(urllib.request.Request(self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}))

    @staticmethod
    def _ask(request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def job(self, accel: Any = None, tab: str = "txt2img", scripts: dict[str, list] | None = None, **fields: Any) -> tuple[np.ndarray, str]:
        """(pixels, infotext) of a job. scripts: arguments of other always-on scripts."""
        body = {"prompt": "a large red star", "steps": 4, "width": 128, "height": 128, "seed": 1, "sampler_name": "Euler a", **fields}
        alwayson = {name: {"args": args} for name, args in (scripts or {}).items()}
        if accel is not None:
            alwayson["accel"] = {"args": accel if isinstance(accel, list) else [accel]}
        if alwayson:
            body["alwayson_scripts"] = alwayson
        status, answer = self.post(f"/sdapi/v1/{tab}", body)
        assert status == 200, answer
        return pixels(answer["images"][0]), self.told(answer)[0]

    def told(self, answer: dict) -> list[str]:
        """The infotexts of a job's answer; its account is kept."""
        info = json.loads(answer["info"])
        self.account = info["extra_generation_params"].get("Accel account")
        return info["infotexts"]

    def methods(self, place: str | None = None) -> list[dict]:
        """What every method did in the passes of the last job (place: in those of one kind), with the steps of its pass as ``all``."""
        passes = [entry for entry in self.account["passes"] if place in (None, entry["place"])]
        return [method | {"all": entry["report"]["steps"]} for entry in passes for method in entry["report"]["methods"]]

    def did(self, effect: str) -> list[tuple[int, int, int]]:
        """Of every pass of the last job with this effect: on how many layers, in how many steps, of how many."""
        found = [(method["layers_by_effect"].get(effect, 0), method["steps"], method["all"]) for method in self.methods()]
        return [one for one in found if one[0]]

    def saved(self) -> int:
        """Evaluations of a row that the last job saved."""
        return sum(method["evaluations_saved"] for method in self.methods())

    def failures(self) -> list[str]:
        """Errors of ours in the last job."""
        told = [reason for reasons in self.account["reasons"].values() for reason in reasons]
        broken = [reason["text"] for reason in told if reason["code"] in ("after_error", "account_lost", "ended_by_error")]
        return broken + [method["failed"] for method in self.methods() if method["failed"]]

    def reasons(self) -> str:
        """Why something did not act in the last job: all clauses, in the words of its account."""
        notes = [note for notes in self.account["notes"].values() for note in notes]
        for entry in self.account["passes"]:
            notes += entry["report"]["stood_down"]
        for method in self.methods():
            notes += [*method["notes"], *method["stood_down"], *filter(None, (method["off"], method["idle"]))]
        return "; ".join(notes)

    def reports(self) -> list[dict]:
        """Of the last job's passes."""
        return [entry["report"] for entry in self.get("/accel/v1/report")[1]["report"]["passes"]]


def pixels(text: str) -> np.ndarray:
    """A picture of an answer."""
    return np.asarray(_opened(text))


def png_info(text: str) -> str:
    """What a picture of an answer says of itself."""
    return _opened(text).info["parameters"]


def _opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def encoded(picture: np.ndarray) -> str:
    """A picture for a question."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
