"""Two routes of our own: what the last job did, and what can be set."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import shared

from ..settings.infotext import shown_preset
from ..settings.job import CUSTOM
from ..settings.presets import PRESETS
from ..settings.schema import KNOBS
from .ab import script as ab
from .ab.result import key_of
from .accordion import user_presets
from .jobs.session import SESSION
from .prompt_to_prompt import controls


def add_routes(demo: Any, app: Any) -> None:
    """Add ``/accel/v1/report`` and ``/accel/v1/schema`` to the host's server, behind the host's own log-in if it has one."""
    guards = _guards(app)
    app.add_api_route("/accel/v1/report", report, methods=["GET"], dependencies=guards)
    app.add_api_route("/accel/v1/schema", schema, methods=["GET"], dependencies=guards)


def report() -> dict[str, Any]:
    """The account of the last job that Accel took part in; without prompts."""
    return {"report": SESSION.last}


def schema() -> dict[str, Any]:
    """Every setting: in the order of the positional arguments, and by the name that a dict as first argument uses; and those of the
    scripts of the Script menu, whose ``script_args`` are a list of one dict."""
    return {
        "settings": [
            {
                "name": knob.name,
                "kind": knob.kind,
                "label": knob.label,
                "hint": knob.hint,
                "default": knob.text(knob.default) if knob.texts else knob.default,
                "minimum": knob.rule.get("low"),
                "maximum": knob.rule.get("high"),
                "choices": list(knob.texts) if knob.texts else None,
                "infotext": knob.infotext,
            }
            for knob in KNOBS.values()
        ],
        "scripts": {
            controls.TITLE.lower(): {"script_args": controls.EXAMPLE, "settings": [_of_control(one) for one in controls.CONTROLS.values()]},
            ab.TITLE.lower(): {"script_args": ab.EXAMPLE, "settings": [_of_rule(name, label) for name, label in ab.NAMES.items()]},
        },
        "presets": [shown_preset(name) for name in (*PRESETS, CUSTOM)] + list(user_presets.read()[0]),
    }


def _of_control(control: controls.FormControl) -> dict[str, Any]:
    more = {"minimum": control.low, "maximum": control.high, "choices": list(control.choices) or None, "infotext": control.key}
    return {"name": control.name, "kind": control.kind, "label": control.label, "hint": control.hint, "default": control.default} | more


def _of_rule(name: str, label: str) -> dict[str, Any]:
    default, rule = ab.RULES[label]
    more = {"minimum": rule.get("low"), "maximum": rule.get("high"), "choices": None, "infotext": key_of(label)}
    return {"name": name, "kind": rule["kind"], "label": label, "hint": ab.HINTS[label], "default": default} | more


def _guards(app: Any) -> list[Any]:
    given = getattr(shared.cmd_opts, "api_auth", None)
    if given:
        users = dict(pair.split(":", 1) for pair in given.split(","))

        def basic(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008
            wanted = users.get(credentials.username)
            if wanted is None or not secrets.compare_digest(credentials.password.encode(), wanted.encode()):
                raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

        return [Depends(basic)]

    def logged_in(request: Request) -> None:
        tokens = getattr(app, "tokens", {})
        # Gradio 4 puts an id of the page behind their names.
        cookies = (cookie for name, cookie in request.cookies.items() if name.startswith("access-token"))
        if getattr(app, "auth", None) is not None and not any(cookie in tokens for cookie in cookies):
            raise HTTPException(401, "Not authenticated")

    return [Depends(logged_in)]
