"""Comparisons by the script "Accel A/B" in the double of the host."""

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.6}


def compare(host, repeats=1, warm_up=True, gain=4, tab="txt2img", accel=ON, **fields):
    p = host.p(tab, accel, **fields)
    script = host.script(tab, "Accel A/B")
    args = list(p.script_args)
    args[0] = p.scripts.selectable_scripts.index(script) + 1
    args[script.args_from : script.args_to] = [repeats, warm_up, gain]
    p.script_args = tuple(args)
    host.shared.state.begin("job")
    return p.scripts.run(p, *p.script_args)


def during(host, monkeypatch, number, does):
    """``does`` is called in every step of the run of that number, from 1."""
    run, count = host.processing.process_images, []
    host.callbacks.on_cfg_denoiser(lambda params: does(host.shared.state) if len(count) == number else None)

    def process_images(p):
        count.append(p)
        return run(p)

    monkeypatch.setattr(host.processing, "process_images", process_images)
    return count
