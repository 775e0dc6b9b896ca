"""Requests to the double as the host's API takes them: ``infotext``, scripts by name, arguments assigned into the runner's list."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException

# What the host itself reads of PNG info.
OF_THE_HOST = {"Prompt": ("prompt", str), "Negative prompt": ("negative_prompt", str), "Steps": ("steps", int), "Seed": ("seed", int)}
OF_THE_HOST |= {"CFG scale": ("cfg_scale", float), "Size-1": ("width", int), "Size-2": ("height", int)}
OF_REQUESTS = ("script_name", "script_args", "alwayson_scripts", "infotext")


def post(host: Any, tab: str = "txt2img", **sent: Any) -> tuple[int, Any]:
    """(status, the result or what the client is told)."""
    runner = host.runners[tab]
    request, from_infotext = dict(sent), {}
    if sent.get("infotext"):
        _apply_infotext(host, runner, sent, request, from_infotext)
    args = host.args(tab)
    for index, value in from_infotext.items():
        args[index] = value
    if request.get("script_name"):
        script = next(s for s in runner.selectable_scripts if s.title().lower() == request["script_name"].lower())
        # So is the host: a short list moves what comes behind it.
        args[script.args_from : script.args_to] = request.get("script_args", [])
        args[0] = runner.selectable_scripts.index(script) + 1
    for name, given in request.get("alwayson_scripts", {}).items():
        script = runner.script(name)
        for place, value in zip(range(script.args_from, script.args_to), given["args"]):
            args[place] = value
    p = host.p(tab, **{name: value for name, value in request.items() if name not in OF_REQUESTS})
    p.is_api, p.script_args = True, tuple(args)
    host.shared.state.begin("request")
    try:
        return 200, p.scripts.run(p, *p.script_args) or host.processing.process_images(p)
    except HTTPException as error:
        return error.status_code, error.detail
    except Exception:
        return 500, "ExceptionGroup"


def _apply_infotext(host: Any, runner: Any, sent: dict, request: dict, args: dict[int, Any]) -> None:
    from modules.infotext_utils import parse_generation_parameters

    params = parse_generation_parameters(sent["infotext"])
    for key, (name, kind) in OF_THE_HOST.items():
        if key in params and name not in sent:
            request[name] = kind(params[key])
    places = {component: place for place, component in enumerate(runner.inputs)}
    for field in runner.infotext_fields:
        component, target = field
        value = target(params) if callable(target) else params.get(target)
        # Of gradio 4, where the type of an update is called "update", hosts do not take them apart.
        value = value.get("value") if isinstance(value, dict) and value.get("__type__") == "generic_update" else value
        name = getattr(field, "api", None)
        if value is not None and name and name not in sent:
            request[name] = value
        if value is not None and component in places:
            args[places[component]] = value if isinstance(value, type(component.value)) else type(component.value)(value)
