"""Jobs inside jobs as ADetailer runs them: for each finished picture, on a runner of its own, with calls for other scripts around."""

import copy


def detail(host, kept=(), **fields):
    """Inner jobs' results, as they come. kept: titles of the scripts that take part in them."""
    results = []

    def inner(p):
        if getattr(p, "is_inner", False):
            return
        p.scripts.postprocess(copy.copy(p), host.processing.Processed(p, [], []))
        q = host.p("img2img", seed=9, **fields)
        q.is_inner = True
        # As ADetailer: the same dictionary.
        q.extra_generation_params = p.extra_generation_params
        q.scripts = copy.copy(p.scripts)
        q.scripts.alwayson_scripts = [s for s in p.scripts.alwayson_scripts if s.title() in kept]
        q.script_args = copy.copy(p.script_args)
        results.append(host.processing.process_images(q))
        again = copy.copy(p)
        p.scripts.before_process(again)
        p.scripts.process(again)

    host.module("Neighbour").Neighbour.inner = staticmethod(inner)
    return results
