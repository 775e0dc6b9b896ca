"""Distributed's face: a script that sends parts of a job to other WebUIs as it does (2.3.0), each of which is this very double."""

import copy
import json
from types import SimpleNamespace

import torch


class Distributed:
    """Always on, in front of or behind ours. workers: label -> whether that machine has Accel. sent: the requests, as JSON has them."""

    alwayson, filename, args_from, args_to = True, "distributed.py", 0, 0
    name = "distribute"

    def __init__(self, host, workers, pictures=1):
        self.host, self.sent, self.pictures, self.busy = host, [], pictures, False
        self.world = SimpleNamespace(enabled=True, enabled_i2i=True, jobs=[])
        self.workers = workers

    def title(self):
        return "Distribute"

    def before_process(self, p):
        if self.busy:
            return
        self.world.jobs = []
        packed = {script.title(): {"args": list(p.script_args[script.args_from : script.args_to])} for script in p.scripts.alwayson_scripts}
        # All that is on the object; the host's own objects are the double's matter.
        plain = (str, int, float, type(None))
        payload = {name: value for name, value in vars(p).items() if name.startswith("accel") or isinstance(value, plain)}
        payload = copy.deepcopy(payload) | {"alwayson_scripts": packed}
        request = json.loads(json.dumps(payload))
        for number, (label, has_accel) in enumerate(self.workers.items(), 1):
            self.sent.append(request)
            self.world.jobs.append(SimpleNamespace(worker=self._draw(label, has_accel, request, number), batch_size=self.pictures))

    def _draw(self, label, has_accel, request, number):
        """What the machine answers."""
        worker = SimpleNamespace(label=label, master=False, response=None)
        self.busy = True
        try:
            accel = request["alwayson_scripts"]["Accel"]["args"] if has_accel else {"enabled": False}
            if has_accel == "older":
                accel = [accel[0] | {"unknown": 1}] if isinstance(accel[0], dict) else [{"unknown": 1}]
            fields = {key: request[key] for key in ("prompt", "negative_prompt", "steps", "width", "height", "cfg_scale")}
            done = self.host.job(accel=accel, batch_size=self.pictures, seed=request["seed"] + number, **fields)
        finally:
            self.busy = False
        worker.response = {"images": done.images, "info": json.dumps({"infotexts": done.infotexts})}
        return worker

    def postprocess_batch_list(self, p, listed, batch_number):
        if self.busy or batch_number + 1 < p.n_iter:
            return
        for job in self.world.jobs:
            listed.images.extend(torch.zeros(4, 8, 8) for _ in job.worker.response["images"])
        p.batch_size = len(listed.images)

    def postprocess(self, p, processed):
        for job in [] if self.busy else self.world.jobs:
            job.worker.response = None


def share(host, workers, pictures=1, first=False):
    """Distributed is installed there; first: its moments come before ours."""
    runner = host.runners["txt2img"]
    script = type("DistributedScript", (Distributed, host.scripts.Script), {})(host, workers, pictures)
    for listed in (runner.scripts, runner.alwayson_scripts):
        listed.insert(0 if first else len(listed), script)
    return script
